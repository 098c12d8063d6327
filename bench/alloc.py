#!/usr/bin/env python3
"""alloc.py - allocation next to other allocators: rates, fragmentation, a million tensors.

usage: bench/alloc.py [--rounds N] [--quick] [--only PART,...] [--trace FILE] [--json FILE]
       bench/alloc.py --record [--trace FILE]

What is compared is the allocation of addresses in a tier: thread caches over a
heap ("terrace heap"), against mallocx/dallocx of the same private jemalloc with
its own defaults, and against the other allocators of the distribution. They
take turns in one process, in slices of milliseconds (see bench/alloc.c). The
range allocator ("terrace range") and a tensor made and destroyed stand beside.
Medians are printed as a table, and all of it as JSON.

PART is pair, random, batch (patterns), trace, large or million; what else the
JSON file has stays as it is, so that parts can be measured one by one. The trace is
what examples/gpt creates and destroys in three steps (bench/traces/gpt.trace);
--record makes it anew, by running that over plain memory (bench/loop/plain.c).
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

from common import BUILD, machine, machine_line, tool

# Name, package, library, what it is called there.
PEERS = [("mimalloc", "libmimalloc2.0", "libmimalloc.so.2", "mi_malloc", "mi_free"),
         ("tcmalloc", "libtcmalloc-minimal4", "libtcmalloc_minimal.so.4", "tc_malloc", "tc_free"),
         ("jemalloc", "libjemalloc2", "libjemalloc.so.2", "malloc", "free"),
         ("memkind", "libmemkind0", "libmemkind.so.0", "memkind_malloc", "memkind_free")]
TARGET = 0.9
WHAT = "allocation next to other allocators, a million tensors"
PARTS = ["pair", "random", "batch", "trace", "large", "million"]
TRACE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "traces", "gpt.trace")
TRAINER = ["--steps", "3"]


def peers():
    """Installs what is missing, if that is possible; the rest is reported as not run."""
    subprocess.run([os.path.join(".ci", "deps")] + [p[1] for p in PEERS], check=False,
                   stdout=sys.stderr)
    return [f"{name}={library}:{alloc}:{free}" for name, _, library, alloc, free in PEERS]


def run(command, **env):
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True,
                         env={**os.environ, **env}).stdout
    return json.loads(out)


def size_text(size):
    return "trace" if not size else f"{size >> 20} MiB" if size >= 1 << 20 else \
        f"{size >> 10} KiB" if size >= 1 << 10 and not size % 1024 else f"{size} B"


def show_rates(result):
    rates = result["rates"]
    names = [n for n in ("terrace heap", "private jemalloc", "glibc", "mimalloc", "tcmalloc", "jemalloc",
                         "memkind", "terrace range", "terrace_tensor_create") if n not in result["not_run"]]
    heads = {"terrace heap": "terrace", "private jemalloc": "private", "terrace range": "range",
             "terrace_tensor_create": "tensor"}
    ratios = {(r["pattern"], r["bytes"], r["threads"]): r.get("ratio") for r in rates}
    print("ns per allocation and free, random replacement (the last row: the trace); ratios: rate over "
          "that of\nthe private jemalloc, for pairs, random replacement and batches")
    for threads in (1, 2):
        print(f"{threads} thread{'s' if threads > 1 else '':1}   " +
              "".join(f"{heads.get(n, n):>10}" for n in names) + "    pair  random   batch")
        for r in rates:
            if r["threads"] != threads or r["pattern"] not in ("random", "trace"):
                continue
            row = "".join(f"{r['ns'][n]:10.1f}" if n in r["ns"] else f"{'-':>10}" for n in names)
            three = ("pair", "random", "batch") if r["bytes"] else ("trace",)
            row += "".join(f"{ratios.get((p, r['bytes'], threads)) or 0:8.2f}" for p in three)
            print(f"{size_text(r['bytes']):>9}   {row}")
    worst = min((r for r in rates if "ratio" in r), key=lambda r: r["ratio"], default=None)
    if worst:
        print(f"least ratio {worst['ratio']:.2f} ({worst['pattern']}, {size_text(worst['bytes'])}, "
              f"{worst['threads']} threads); at least {TARGET} is wanted")
    for name, why in result["not_run"].items():
        print(f"not run: {name}: {why}")


def show_large(large):
    print(f"{large['tensors']} tensors of 3 MiB to 8 GiB at random through a budget of 1.02 x 64 GiB: "
          f"{'all fit' if large['fits_in_1.02'] else 'NOT ALL FIT'}; most committed "
          f"{large['peak_committed_per_peak_live']:.4f} x most alive, mean "
          f"{large['mean_committed_per_live']:.4f}, worst tensor {large['worst_tensor']:.4f}")


def show_million(million):
    small, large = million["small"], million["large"]
    for name, r in (("small", small), ("large", large)):
        print(f"{r['tensors']:>8} tensors of {size_text(r['bytes_each'])}, 10 % budget: create "
              f"{r['create_s']:.2f} s, write {r['write_s']:.2f} s, read {r['read_s']:.2f} s, total "
              f"{r['total_s']:.2f} s; {r['metadata_bytes_each']:.0f} B of metadata each"
              f"{'' if name == 'small' else ' (the same bytes)'}")
    print(f"time {million['time_ratio']:.2f} x that in 2 MiB tensors; bytes "
          f"{'right' if million['bytes_right'] else 'WRONG'}")


def record(path):
    """What the trainer creates and destroys; sizes are those it asks for."""
    with tempfile.TemporaryDirectory() as folder:
        raw = os.path.join(folder, "trace")
        subprocess.run([os.path.join(BUILD, "examples", "gpt"), *TRAINER], check=True, stdout=sys.stderr,
                       env={**os.environ, "LD_PRELOAD": os.path.abspath(tool("plain.so")),
                            "BENCH_MEMORY": "anonymous", "BENCH_TRACE": raw})
        with open(raw, encoding="ascii") as f:
            words = [line.split() for line in f]
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="ascii") as f:
        f.write(f"# tensors of examples/gpt {' '.join(TRAINER)}, in bytes asked for; made by bench/alloc.py --record\n")
        for w in words:
            if w[0] in ("new", "free", "step"):
                f.write(" ".join([*w[:2], *w[3:]]) + "\n")
    print(f"{os.path.relpath(path)}: {os.path.getsize(path)} bytes")


def rate_key(rate):
    return rate["threads"], PARTS.index(rate["pattern"]), rate["bytes"]


def measure(args, parts, rounds):
    """The parts that are wanted; the rest as the JSON file has it."""
    result = {}
    if args.only and os.path.exists(args.json):
        with open(args.json, encoding="ascii") as f:
            result = json.load(f)
        if any(result["machine"][k] != v for k, v in machine().items() if k not in ("date", "memory_MiB")):
            sys.exit(f"{args.json} is of another machine; name another file with --json")
    result = {"bench": "alloc", "what": WHAT, **result, "machine": machine()}
    if set(parts) - {"million"}:
        # Libraries that are loaded late and use static thread-local storage need room for it.
        got = run([tool("alloc"), os.path.join(BUILD, "bench", "modules"), args.trace, str(rounds), ",".join(parts)] +
                  peers(), GLIBC_TUNABLES="glibc.rtld.optional_static_tls=16384")
        before = result.get("alloc", {})
        rates = {rate_key(r): r for r in before.get("rates", []) + got["rates"]}
        result["alloc"] = {**before, **got, "rates": [rates[k] for k in sorted(rates)]}
    if "million" in parts:
        result["million"] = run([tool("million"), str(200000 if args.quick else 1000000), "4096",
                                 str(1 if args.quick else 3)])
    return result


def main():
    args = argparse.ArgumentParser(description=WHAT)
    args.add_argument("--rounds", type=int, default=9, help="rounds of each, default 9")
    args.add_argument("--quick", action="store_true", help="3 rounds, 200,000 tensors")
    args.add_argument("--only", metavar="PART,...", help=f"of {', '.join(PARTS)}; the others stay as they are in FILE")
    args.add_argument("--trace", metavar="FILE", default=TRACE, help="the trace to replay, or to record")
    args.add_argument("--record", action="store_true", help="record the trace anew, measure nothing")
    args.add_argument("--json", metavar="FILE", default=os.path.join(BUILD, "bench", "alloc.json"))
    args = args.parse_args()
    if args.record:
        record(args.trace)
        return
    parts = args.only.split(",") if args.only else PARTS
    for part in parts:
        if part not in PARTS:
            sys.exit(f"there is no part '{part}', only {', '.join(PARTS)}")
    rounds = 3 if args.quick else args.rounds
    try:
        result = measure(args, parts, rounds)
    except subprocess.CalledProcessError as e:
        sys.exit(f"{os.path.basename(e.cmd[0])} has failed")
    with open(args.json, "w", encoding="ascii") as f:
        json.dump(result, f, indent=1)
    print(f"\n{machine_line(result['machine'])}")
    if result.get("alloc", {}).get("rates"):
        show_rates(result["alloc"])
    if "large" in result.get("alloc", {}):
        show_large(result["alloc"]["large"])
    if "million" in result:
        show_million(result["million"])
    print(f"medians of {rounds} rounds; JSON: {args.json}")


if __name__ == "__main__":
    main()
