#!/usr/bin/env python3
"""run.py - every benchmark, next to its peer in the same run.

usage: bench/run.py [--only NAME,...] [--runs N] [--quick] [--results FOLDER]
                    [--memory MIB,...] [--size MIB] [--rivals NAME,...] [--append]

NAME is disk (read and write passes, latency), adam, inference, random,
random-zipf (loops.py) or gpt (gpt.py); --memory, --size and --rivals are theirs.

Disk rates are ratios against fio with the same folder, block size, depth and
file size, on a file laid out beforehand; the two are alternated, so that what
else the machine does meets both. fio's buffers are ordinary memory and, where
huge pages can be reserved for it (as root), also huge pages, which is what
terrace's memory has; these are the better peer. Medians are printed as tables, and all of it
as JSON (NAME.json in FOLDER, default BUILD/bench/results).
"""
import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile

from common import BUILD, MIB, disk_tier, machine, machine_line, save, spill_folder, tool


class HugePages:
    """Reserves enough of them for fio while the benchmark runs, where that is allowed."""

    PATH = "/proc/sys/vm/nr_hugepages"

    def __init__(self, pages):
        self.before = None
        try:
            with open(self.PATH, "r+", encoding="ascii") as f:
                self.before = f.read()
            self.write(pages + int(self.before))
            with open("/proc/meminfo", encoding="ascii") as f:
                self.enough = int(re.search(r"HugePages_Free:\s*(\d+)", f.read()).group(1)) >= pages
        except OSError:
            self.enough = False

    def write(self, pages):
        with open(self.PATH, "w", encoding="ascii") as f:
            f.write(str(pages))

    def __enter__(self):
        return self.enough

    def __exit__(self, *_):
        if self.before is not None:
            self.write(int(self.before))


def fio(kind, path, size_mib, block, depth, memory="malloc"):
    """GB/s of one pass by fio."""
    out = subprocess.run(
        ["fio", "--name=peer", f"--filename={path}", f"--rw={kind}", "--direct=1",
         "--ioengine=io_uring", f"--bs={block}", f"--iodepth={depth}", f"--size={size_mib}M",
         f"--mem={memory}",
         "--overwrite=1", "--fallocate=none", "--output-format=json"],
        check=True, capture_output=True, text=True).stdout
    job = json.loads(out[out.index("{"):])["jobs"][0][kind]
    return job["io_bytes"] / (job["runtime"] * 1e6)


class Stream:
    """bench/stream, which makes one measured pass whenever it is told to."""

    def __init__(self, kind, size_mib, budget_mib, tensor_mib):
        self.process = subprocess.Popen(
            [tool("stream"), kind, str(size_mib), str(budget_mib), str(tensor_mib)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit("bench/stream did not start")

    def measure(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        if self.process.wait():
            sys.exit("bench/stream failed")


def stream(kind, runs, size_mib, block, depth, folder, huge):
    """One kind of pass, alternated with fio."""
    memories = ["malloc", "mmaphuge"] if huge else ["malloc"]
    with tempfile.NamedTemporaryFile(dir=folder, prefix="terrace-bench-") as peer:
        fio("write", peer.name, size_mib, block, depth)
        ours = Stream(kind, size_mib, size_mib // 8, 8)
        rows = []
        for i in range(runs):
            row = {f"fio_{m}_GBps": fio(kind, peer.name, size_mib, block, depth, m) for m in memories}
            row.update(ours.measure())
            rows.append(row)
            print(f"  {kind} {i + 1}/{runs}: " + ", ".join(
                f"{k[:-5]} {row[k]:.2f} GB/s" for k in row if k.startswith("fio_")) +
                f", terrace {row['GBps']:.2f} GB/s", file=sys.stderr)
        ours.close()
    result = {"terrace_GBps": statistics.median(r["GBps"] for r in rows), "peers": {}, "runs": rows,
              "cpu_percent_per_GBps": statistics.median(r["cpu_percent_per_GBps"] for r in rows)}
    for m in memories:
        rate = statistics.median(r[f"fio_{m}_GBps"] for r in rows)
        result["peers"][m] = {"GBps": rate, "ratio": result["terrace_GBps"] / rate}
    return result


def latency(many):
    out = subprocess.run([tool("latency"), str(many)], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def print_latency(lat):
    label = f"acquire + release, {lat['tensors']} at random"
    print(f"{label:34}{lat['acquire_release_ns']:>9.1f} ns{lat['mutex_pair_ns']:>9.1f} ns{lat['ratio']:>9.2f}"
          "   mutex lock + unlock")
    for how, key in ("in order", "many_in_order_ns"), ("at random", "many_at_random_ns"):
        label = f"the same, {lat['many']} {how}"
        print(f"{label:34}{lat[key]:>9.1f} ns")
    print(f"{'the same, two threads over one':34}{lat['two_threads']:>10.2f} x{lat['two_counters']:>10.2f} x"
          f"{lat['scaling']:>9.2f}   two atomic counters")


def disk(args):
    """Read and write passes and the latency of a resident tensor."""
    size = 1024 if args.quick else 4096
    tier = disk_tier()
    block, depth = tier["io_chunk"], tier["io_depth"]
    result = {"machine": machine(), "disk": tier["location"], "engine": tier["engine"],
              "block": block, "depth": depth, "size_MiB": size, "budget_MiB": size // 8,
              "latency": latency(100000 if args.quick else 1000000)}
    with HugePages(2 * depth * block // (2 * MIB) + 8) as huge:
        for kind in ("read", "write"):
            result[kind] = stream(kind, args.runs, size, block, depth, spill_folder(), huge)
    path = save(result, args.results, "disk")

    print(f"\n{machine_line(result['machine'])}; {result['disk']}, {result['engine']}, {block >> 10} KiB x {depth}")
    print(f"{'':34}{'terrace':>12}{'peer':>12}{'ratio':>9}   peer")
    names = {"malloc": "fio, O_DIRECT io_uring", "mmaphuge": "the same with huge pages"}
    for kind in ("read", "write"):
        r = result[kind]
        label = f"{kind} pass, {size} MiB through {size // 8}"
        for memory, peer in r["peers"].items():
            print(f"{label:34}{r['terrace_GBps']:>7.2f} GB/s{peer['GBps']:>7.2f} GB/s"
                  f"{peer['ratio']:>9.2f}   {names[memory]}")
            label = ""
        print(f"{'  its I/O thread':34}{r['cpu_percent_per_GBps']:>7.1f} % of a core per GB/s")
    print_latency(result["latency"])
    print(f"medians of {args.runs}; JSON: {path}")


def words(text):
    return text.split(",")


def main():
    import gpt  # these need bound.py, and what they run is slower than the rest
    import loops
    benches = {"disk": disk, **{n: lambda a, n=n: loops.bench(n, a) for n in loops.LOOPS}, "gpt": gpt.bench}
    args = argparse.ArgumentParser(description="measure terrace next to its peers")
    args.add_argument("--only", type=words, default=list(benches), help=f"some of {','.join(benches)}")
    args.add_argument("--runs", type=int, help="runs of each, default 5")
    args.add_argument("--quick", action="store_true", help="a quarter of the data, 3 runs")
    args.add_argument("--results", default=os.path.join(BUILD, "bench", "results"), help="folder for JSON files")
    args.add_argument("--memory", type=lambda t: [int(w) for w in words(t)],
                      help="loops: MiB of memory, one or several; gpt: percent of the working set")
    args.add_argument("--size", type=int, help="loops: MiB of all tensors, default 2048")
    args.add_argument("--rivals", type=words, help="loops, gpt: only these, e.g. terrace,mmap")
    args.add_argument("--append", action="store_true",
                      help="loops, gpt: --runs more rounds of what is in the results' folder; 0 only tries what "
                           "rivals can be told")
    args = args.parse_args()
    if args.runs is None:
        args.runs = 3 if args.quick else 5
    unknown = [n for n in args.only if n not in benches]
    if unknown:
        sys.exit(f"--only is {','.join(unknown)}; it can be some of {','.join(benches)}")
    # Ended from outside: what was set up is taken down all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in args.only:
        benches[name](args)


if __name__ == "__main__":
    main()
