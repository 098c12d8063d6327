#!/usr/bin/env python3
"""alloc.py - allocation next to other allocators: rates, fragmentation, a million tensors.

usage: bench/alloc.py [--rounds N] [--quick] [--json FILE]

What is compared is the allocation of addresses in a tier: thread caches over a
heap ("terrace heap"), against mallocx/dallocx of the same private jemalloc with
its own defaults, and against the other allocators of the distribution. They
take turns in one process, in slices of milliseconds (see bench/alloc.c). The
range allocator ("terrace range") and a tensor made and destroyed stand beside.
Medians are printed as a table, and all of it as JSON.
"""
import argparse
import json
import os
import subprocess
import sys

from run import BUILD, machine, tool

# Name, package, library, what it is called there.
PEERS = [("mimalloc", "libmimalloc2.0", "libmimalloc.so.2", "mi_malloc", "mi_free"),
         ("tcmalloc", "libtcmalloc-minimal4", "libtcmalloc_minimal.so.4", "tc_malloc", "tc_free"),
         ("jemalloc", "libjemalloc2", "libjemalloc.so.2", "malloc", "free"),
         ("memkind", "libmemkind0", "libmemkind.so.0", "memkind_malloc", "memkind_free")]
TARGET = 0.9


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
            row += "".join(f"{ratios[(p, r['bytes'], threads)] or 0:8.2f}" for p in three)
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


def main():
    args = argparse.ArgumentParser(description="allocation next to other allocators")
    args.add_argument("--rounds", type=int, default=9, help="rounds of each, default 9")
    args.add_argument("--quick", action="store_true", help="3 rounds, 200,000 tensors")
    args.add_argument("--json", default=os.path.join(BUILD, "bench", "alloc.json"))
    args = args.parse_args()
    rounds = 3 if args.quick else args.rounds

    # Libraries that are loaded late and use static thread-local storage need room for it.
    result = {"machine": machine()}
    result["alloc"] = run([tool("alloc"), os.path.join(BUILD, "bench", "modules"), str(rounds)] + peers(),
                          GLIBC_TUNABLES="glibc.rtld.optional_static_tls=16384")
    result["million"] = run([tool("million"), str(200000 if args.quick else 1000000), "4096",
                             str(1 if args.quick else 3)])
    with open(args.json, "w", encoding="ascii") as f:
        json.dump(result, f, indent=1)
    m = result["machine"]
    print(f"\n{m['date']}, {m['cpus']} x {m['cpu']}, {m['memory_MiB']} MiB, Linux {m['kernel']}")
    show_rates(result["alloc"])
    show_large(result["alloc"]["large"])
    show_million(result["million"])
    print(f"medians of {rounds} rounds; JSON: {args.json}")


if __name__ == "__main__":
    main()
