#!/usr/bin/env python3
"""preload.py - unmodified programs with libterrace-preload.so.

usage: bench/preload.py [--only train,swap,malloc] [--runs N] [--quick] [--json FILE]

train   PyTorch trains on the CPU with twice the memory of its cgroup (train_torch.py):
        with all the memory it asks for, which gives the losses; in the cgroup without
        anything, where it is killed; with `terrace run`; and with a swap file. Asked: the
        same losses to the bit, in a third of swap's time. Needs root.
swap    numpy goes through 3 times the memory of a cgroup, reading and changing it:
        once with `terrace run`, once with a swap file in the spill folder. Asked: 4
        times faster. Needs root.
malloc  programs that allocate small blocks all the time, next to the same with
        LD_PRELOAD=libjemalloc.so.2, in N pairs; the median of the ratios of their
        times with its interval (bootstrap, 95 %), and the same of jemalloc next to
        itself: the noise. Asked: at most 1.02 at the upper end.
--part runs one program of malloc, or one engine of the others, by a part of its name.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

import cgroup

BUILD = os.environ.get("BUILD", "build")
LIBRARY = os.path.realpath(os.path.join(BUILD, "lib", "libterrace-preload.so"))
TERRACE = os.path.realpath(os.path.join(BUILD, "bin", "terrace"))
PYTHON = "/usr/bin/python3"
MIB = 1 << 20
BESIDES = 96  # MiB for python, numpy and what terrace needs itself
TORCH = 144  # MiB for python and torch itself

STREAM = """
import sys, time
import numpy as np
n, rounds = int(sys.argv[1]) << 17, int(sys.argv[2])
a = np.empty(n)
step = 1 << 17
for i in range(0, n, step):
    a[i:i + step] = i
times = {"read": [], "change": []}
for k in range(rounds):
    start = time.monotonic()
    total = sum(float(a[i:i + step].sum()) for i in range(0, n, step))
    times["read"].append(time.monotonic() - start)
    start = time.monotonic()
    for i in range(0, n, step):
        a[i:i + step] += 1
    times["change"].append(time.monotonic() - start)
    want = sum(float(i + k) * min(step, n - i) for i in range(0, n, step))
    assert abs(total - want) <= 1e-9 * want, (total, want)
import json
print(json.dumps(times))
"""

CHURN = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* Replaces blocks of many sizes at random. */
int main(int argc, char **argv)
{
    enum { SLOTS = 20000 };
    static char *slot[SLOTS];
    uint64_t x = 88172645463325252u;
    for (long i = 0, n = argc > 1 ? atol(argv[1]) : 1; i < n; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        char **s = &slot[x % SLOTS];
        size_t bytes = x >> 32 & 15 ? 16 + (x >> 40 & 255) : 16 + (x >> 40 & 16383);
        free(*s);
        *s = malloc(bytes);
        **s = (char)i;
    }
    return 0;
}
"""

TREES = r"""
#include <map>
#include <string>
#include <cstdlib>
// A map of strings that grows and shrinks: new and delete.
int main(int argc, char **argv)
{
    long n = argc > 1 ? std::atol(argv[1]) : 1;
    std::map<long, std::string> m;
    for (long i = 0; i < n; i++) {
        m[i * 7919 % 100003] = std::string(20 + i % 60, 'x');
        if (i % 3 == 0)
            m.erase(i * 104729 % 100003);
    }
    return m.size() == 0;
}
"""


def interval(values):
    """The median and where it lies with 95 %."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


def swap(args):
    memory = 128 if args.quick else 512
    size = 3 * memory
    folder = os.environ.get("TERRACE_NVME_PATH", "/var/tmp").split(":")[0]
    result = {}
    command = [PYTHON, "-c", STREAM, str(size), "1" if args.quick else "3"]
    runs = {
        "terrace": lambda: cgroup.run([TERRACE, "run", "-q", "--ram", f"{memory}M", "--"] + command,
                                      (memory + BESIDES) * MIB),
        "swap": lambda: cgroup.run(command, (memory + BESIDES) * MIB, swap=folder, swap_bytes=(size + 64) * MIB,
                                    timeout=120 if args.quick else 900),
    }
    for name, run in runs.items():
        if args.part not in name:
            continue
        try:
            out, peak = run()
        except (OSError, cgroup.Killed) as e:
            print(f"  {name:10} left out: {e}")
            continue
        times = json.loads(out)
        result[name] = {kind: statistics.median(t) for kind, t in times.items()}
        for kind, t in result[name].items():
            print(f"  {name:10} {kind:8} {size} MiB in {memory + BESIDES} MiB: {t:6.2f} s, "
                  f"{size * MIB / t / 1e9:5.2f} GB/s, peak {peak // MIB} MiB")
    if len(result) == 2:
        for kind in ("read", "change"):
            result[kind] = result["swap"][kind] / result["terrace"][kind]
            print(f"  {kind}: {result[kind]:.1f} times as fast as swap")
    return result


def train(args):
    memory, steps = (320, 3) if args.quick else (640, 4)
    folder = os.environ.get("TERRACE_NVME_PATH", "/var/tmp").split(":")[0]
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_torch.py")
    limit, ram = memory * MIB, memory - TORCH
    result = {}
    with tempfile.NamedTemporaryFile() as times:
        command = [PYTHON, script, str(2 * memory), str(steps), times.name]
        runs = {
            "in memory": lambda: cgroup.run(command),
            "without": lambda: cgroup.run(command, limit),
            "terrace": lambda: cgroup.run([TERRACE, "run", "-q", "--ram", f"{ram}M", "--"] + command, limit),
            "swap": lambda: cgroup.run(command, limit, swap=folder, swap_bytes=3 * memory * MIB, timeout=900),
        }
        for name, run in runs.items():
            if args.part not in name:
                continue
            try:
                out, peak = run()
            except (OSError, cgroup.Killed) as e:
                print(f"  {name:10} no result: {e}", flush=True)
                result[name] = {"no result": str(e)}
                continue
            took = [float(t) for t in times.read().split()]
            times.seek(0)
            result[name] = {"losses": out.splitlines(), "seconds": took}
            same = "" if name == "in memory" or "in memory" not in result else (
                ", losses the same" if out.splitlines() == result["in memory"]["losses"] else ", LOSSES DIFFER")
            print(f"  {name:10} {2 * memory} MiB in {limit >> 20} MiB: {statistics.median(took[1:]):6.2f} s a step, peak "
                  f"{'-' if peak is None else peak // MIB} MiB{same}", flush=True)
    both = [sum(result[name]["seconds"][1:]) for name in ("terrace", "swap") if "seconds" in result.get(name, {})]
    if len(both) == 2:
        result["share of swap"] = both[0] / both[1]
        print(f"  terrace takes {both[0] / both[1]:.2f} of swap's time")
    return result


def seconds(command, preload):
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "LD_PRELOAD": preload})
    return time.monotonic() - start


def jemalloc():
    out = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return next((line.split("=> ")[1] for line in out.splitlines() if "libjemalloc.so.2" in line), None)


def programs(folder, quick):
    c, cpp = os.path.join(folder, "churn"), os.path.join(folder, "trees")
    subprocess.run(["gcc", "-O2", "-fno-builtin", "-x", "c", "-", "-o", c], input=CHURN, text=True, check=True)
    subprocess.run(["g++", "-O2", "-x", "c++", "-", "-o", cpp], input=TREES, text=True, check=True)
    some = 1 if quick else 4
    words = "import sys\nd = {}\nfor i in range(%d):\n    d[str(i %% 50000)] = [i, str(i)]\n" % (some * 250000)
    return {
        "C, sizes at random": [c, str(some * 5000000)],
        "C++, a map of strings": [cpp, str(some * 400000)],
        "python, strings in a dict": [PYTHON, "-c", words],
    }


def malloc(args):
    theirs = jemalloc()
    if not theirs:
        print("  libjemalloc.so.2 is not installed")
        return {}
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, command in programs(folder, args.quick).items():
            if args.part not in name:
                continue
            ratios, noise = [], []
            for k in range(args.runs):
                order = [LIBRARY, theirs, theirs]
                order = order[k % 3:] + order[:k % 3]
                took = [seconds(command, library) for library in order]
                ours = took[order.index(LIBRARY)]
                others = [t for t, library in zip(took, order) if library != LIBRARY]
                ratios += [ours / others[0]]
                noise += [others[0] / others[1]]
            result[name] = {"terrace": interval(ratios), "jemalloc": interval(noise)}
            for who, (median, low, high) in result[name].items():
                print(f"  {name:26} {who:9} {median:.3f} [{low:.3f}, {high:.3f}]")
    return result


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--only", default="train,swap,malloc")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--part", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    results = {}
    for name, part in (("train", train), ("swap", swap), ("malloc", malloc)):
        if name in args.only.split(","):
            print(f"{name}:")
            results[name] = part(args)
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump(results, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
