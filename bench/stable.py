#!/usr/bin/env python3
"""stable.py - address-stable memory next to kernel swap and mmap.

usage: bench/stable.py [--size MIB] [--budget MIB] [--runs N] [--quick]
                       [--only NAME,...] [--peers NAME,...] [--steps] [--json FILE]

Each has the same memory: a memory cgroup (v1 or v2) of BUDGET, and SIZE of
bytes to go through. terrace's own limit is that less 24 MiB, for what is not
the program's data. swap is anonymous memory and a swap file in the spill
folder; mmap a shared mapping of a file there, with the madvise that was
fastest in a trial of each. All three are alternated, pass by pass, each pass
after an unmeasured one of its kind; the figures are medians. What cannot be set
up here (both need root) is left out, with the reason.
"""
import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys

from run import BUILD, machine, spill_folder, tool

MIB = 1 << 20
BESIDES = 24  # MiB for code, stacks and tables
PASSES = [  # name, order, kind, threads
    ("sequential read", "sequential", "read", 1),
    ("sequential read-write", "sequential", "write", 1),
    ("strided read", "strided", "read", 1),
    ("strided read-write", "strided", "write", 1),
    ("random read", "random", "read", 1),
    ("random read-write", "random", "write", 1),
    ("random read, 8 threads", "random", "read", 8),
]


def write_to(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


class Group:
    """A memory cgroup; raises OSError where there can be none."""

    def __init__(self, name, limit_mib, swap):
        with open("/proc/self/cgroup", encoding="ascii") as f:
            groups = [line.strip().split(":", 2) for line in f]
        v1 = next((p for _, c, p in groups if "memory" in c.split(",")), None)
        root = "/sys/fs/cgroup/memory" if v1 is not None else "/sys/fs/cgroup"
        path = v1 if v1 is not None else next((p for n, _, p in groups if n == "0"), "/")
        reason = None
        while True:
            self.path = os.path.join(root + path.rstrip("/"), f"terrace-bench-{name}.{os.getpid()}")
            try:
                os.mkdir(self.path)
                try:
                    self.limit(v1 is not None, limit_mib << 20, swap)
                    return
                except OSError:
                    os.rmdir(self.path)
                    raise
            except OSError as e:
                reason = e
            if path in ("", "/"):
                raise OSError(f"no memory cgroup can be made: {reason}")
            path = os.path.dirname(path)

    def limit(self, v1, limit, swap):
        if v1:
            write_to(os.path.join(self.path, "memory.swappiness"), "60" if swap else "0")
            write_to(os.path.join(self.path, "memory.limit_in_bytes"), str(limit))
        else:
            with contextlib.suppress(FileNotFoundError):
                write_to(os.path.join(self.path, "memory.swap.max"), "max" if swap else "0")
            write_to(os.path.join(self.path, "memory.max"), str(limit))

    def enter(self):
        write_to(os.path.join(self.path, "cgroup.procs"), str(os.getpid()))

    def remove(self):
        with contextlib.suppress(OSError):
            os.rmdir(self.path)


class SwapFile:
    """Swap of a size in a folder, as long as it is open; raises where refused."""

    def __init__(self, folder, size_mib):
        self.path = os.path.join(folder, f"terrace-bench-swap.{os.getpid()}")
        try:
            with open(self.path, "wb") as f:
                os.chmod(self.path, 0o600)
                os.posix_fallocate(f.fileno(), 0, size_mib << 20)
            for command in ("mkswap", "swapon"):
                done = subprocess.run([command, self.path], capture_output=True, text=True, check=False)
                if done.returncode:
                    raise OSError(f"{command}: {done.stderr.strip().splitlines()[-1]}")
        except OSError:
            self.remove()
            raise

    def remove(self):
        subprocess.run(["swapoff", self.path], capture_output=True, check=False)
        with contextlib.suppress(OSError):
            os.unlink(self.path)


class Program:
    """bench/stable in a memory cgroup of its own."""

    def __init__(self, kind, args, folder):
        self.swap = None
        self.group = Group(kind, args.budget, kind == "swap")
        try:
            if kind == "swap":
                self.swap = SwapFile(folder, args.size + 64)
            self.process = subprocess.Popen(
                [tool("stable"), kind + "+step" * (args.steps and kind == "terrace"), str(args.size), str(args.budget - BESIDES), folder],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                preexec_fn=self.group.enter)
            if self.process.stdout.readline().strip() != "ready":
                _, errors = self.process.communicate()
                raise OSError(errors.strip() or "it was killed")
        except OSError:
            self.remove()
            raise

    def measure(self, order, kind, threads, seconds, advice):
        self.process.stdin.write(f"{order} {kind} {threads} {seconds} {advice}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            sys.exit(f"bench/stable ended: {errors.strip()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.remove()

    def remove(self):
        self.group.remove()
        if self.swap:
            self.swap.remove()


def trial(program, order, kind, threads, seconds):
    """The advice that mmap is fastest with."""
    advices = ("normal", "sequential", "random")
    rates = {a: program.measure(order, kind, threads, seconds, a)["MiBps"] for a in advices}
    return max(advices, key=rates.get)


def measure(programs, runs, seconds, wanted):
    results = {}
    for name, order, kind, threads in wanted:
        advice = trial(programs["mmap"], order, kind, threads, seconds) if "mmap" in programs else "normal"
        rows = []
        for p in programs.values():  # what the last kind has changed is not this one's to write
            p.measure("sequential", "read", 1, seconds, "sequential")
        for i in range(runs):
            rows.append({p: programs[p].measure(order, kind, threads, seconds, advice) for p in programs})
            print(f"  {name} {i + 1}/{runs}: " +
                  ", ".join(f"{p} {r['MiBps']:.1f} MiB/s" for p, r in rows[-1].items()), file=sys.stderr)
        rates = {p: statistics.median(r[p]["MiBps"] for r in rows) for p in programs}
        results[name] = {"MiBps": rates, "mmap_advice": advice, "runs": rows}
    return results


def table(result, args):
    m = result["machine"]
    print(f"\n{m['date']}, {m['cpus']} x {m['cpu']}, {m['memory_MiB']} MiB, Linux {m['kernel']}; "
          f"{args.size} MiB in a memory cgroup of {args.budget} MiB; MiB/s")
    print(f"{'':26}{'terrace':>10}{'swap':>10}{'ratio':>8}{'mmap':>10}{'ratio':>8}")
    for name, r in result["passes"].items():
        line = f"{name:26}{r['MiBps']['terrace']:>10.1f}"
        for peer in ("swap", "mmap"):
            rate = r["MiBps"].get(peer)
            line += f"{rate:>10.1f}{r['MiBps']['terrace'] / rate:>8.2f}" if rate else f"{'-':>10}{'':>8}"
        print(line + (f"   MADV_{r['mmap_advice'].upper()}" if "mmap" in r["MiBps"] else ""))
    for peer, reason in result["not_run"].items():
        print(f"{peer} not run: {reason}")
    print(f"medians of {args.runs}; JSON: {args.json}")


def main():
    parser = argparse.ArgumentParser(description="measure address-stable memory next to its peers")
    parser.add_argument("--size", type=int, default=2048, help="MiB to go through, default 2048")
    parser.add_argument("--budget", type=int, default=512, help="MiB of memory, default 512")
    parser.add_argument("--runs", type=int, default=3, help="measured passes of each, default 3")
    parser.add_argument("--seconds", type=float, default=8, help="longest pass, default 8")
    parser.add_argument("--quick", action="store_true", help="512 MiB in 128, passes of 3 s")
    parser.add_argument("--only", default="", help="names of passes that begin so, by commas")
    parser.add_argument("--peers", default="swap,mmap")
    parser.add_argument("--steps", action="store_true", help="terrace_step() after every pass")
    parser.add_argument("--json", default=os.path.join(BUILD, "bench", "stable.json"))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # swap file and groups go then, too
    if args.quick:
        args.size, args.budget, args.seconds = 512, 128, 3
    wanted = [p for p in PASSES if any(p[0].startswith(o) for o in args.only.split(","))]
    result = {"machine": machine(), "size_MiB": args.size, "budget_MiB": args.budget, "not_run": {}}
    programs = {}
    try:
        for kind in ["terrace"] + [p for p in args.peers.split(",") if p]:
            try:
                programs[kind] = Program(kind, args, spill_folder())
            except (OSError, subprocess.SubprocessError) as e:
                result["not_run"][kind] = str(e)
        if "terrace" not in programs:
            print(f"address-stable memory not measured: {result['not_run']['terrace']}")
            return
        result["passes"] = measure(programs, args.runs, args.seconds, wanted)
    finally:
        for p in programs.values():
            p.close()
    with open(args.json, "w", encoding="ascii") as f:
        json.dump(result, f, indent=1)
    table(result, args)


if __name__ == "__main__":
    main()
