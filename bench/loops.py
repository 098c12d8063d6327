"""Drives the loops in bench/loop: terrace next to its rivals, with the same memory.

Each run is a process of its own in a memory cgroup, without swap but for the
rival that is swap: it fills the tensors, makes two steps that are not counted,
and some that are. Rivals are alternated, round by round, and so is the
measurement of the disk; figures are medians (rounds.py). What a rival can be
told (madvise, how far to read ahead, a scheduler) is tried first, and the
fastest is taken.

    bound = max(compute with everything resident, (R + W) / disk rate)

R and W are computed by bound.py from the accesses, for the whole limit; the
rate is what O_DIRECT transfers (bench/disk) reach with R's share of reads.
"""
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import bound
import cgroup
import rounds
from common import MIB, machine_line, save, spill_folder, tool

BESIDES = 16  # MiB for code, stacks and tables, which a rival's own limit leaves
PASSIVE = {"OMP_WAIT_POLICY": "passive"}  # idle threads leave their processor to the I/O
HUGE_MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # O_DIRECT is faster into huge pages


@dataclasses.dataclass
class Rival:
    name: str
    engine: str
    choices: list  # of option lists; the fastest is taken
    limited: bool = True
    swap: bool = False
    besides: int = BESIDES
    env: dict = dataclasses.field(default_factory=dict)


def rivals():
    return [
        Rival("terrace", "terrace", [[]]),
        Rival("terrace lru", "terrace", [["--policy", "lru"]]),
        Rival("pipeline", "pipeline", [["--ahead", n] for n in ("2", "4", "8")]),
        Rival("mmap", "mmap", [["--advice", "sequential"], ["--advice", "willneed", "--ahead", "2"],
                               ["--advice", "willneed+sync", "--ahead", "2"], ["--advice", "normal"]]),
        Rival("swap", "swap", [["--advice", "normal"], ["--advice", "huge"]], swap=True),
        Rival("swap+madvise", "swap", [["--advice", "willneed", "--ahead", "1"]], swap=True),
        Rival("starpu", "starpu", [["--advice", a] for a in ("eager", "dmdar", "eager+wontuse", "dmdar+wontuse")],
              besides=80, env=HUGE_MALLOC),  # it takes some 60 MiB more than it is told to
        Rival("ram", "ram", [[]], limited=False),
    ]


LOOPS = {  # name: what it is, rivals, options, MiB of memory
    "adam": ("Adam over all of its state",
             ["terrace", "pipeline", "mmap", "swap", "swap+madvise", "starpu", "ram"], [], 700),
    "inference": ("weights read layer by layer",
                  ["terrace", "pipeline", "mmap", "swap", "swap+madvise", "starpu", "ram"], [], 700),
    "random": ("no pattern, uniform", ["terrace", "terrace lru", "mmap", "swap", "ram"], [], 700),
    "random-zipf": ("no pattern, popularity falling with 1/k", ["terrace", "terrace lru", "mmap", "swap", "ram"],
                    ["--kind", "zipf"], 700),
}


class Bench:
    """One loop with one amount of memory."""

    def __init__(self, loop, memory, size, folder, runs, steps):
        self.what, self.names, self.options, _ = LOOPS[loop]
        self.program = tool(loop.split("-")[0])
        self.memory, self.size, self.folder, self.runs, self.steps = memory, size, folder, runs, steps
        self.options = self.options + ["--size", str(size)]
        if size < 1024 and loop == "adam":
            self.options += ["--piece", "2"]

    def once(self, rival, choice, warm=2, steps=None, seconds=60, timeout=None):
        limit = self.memory - rival.besides
        command = [self.program, *self.options, "--engine", rival.engine, "--folder", self.folder,
                   "--limit", str(limit), "--warm", str(warm), "--steps", str(steps or self.steps),
                   "--seconds", str(seconds), *choice]
        out, peak = cgroup.run(command, self.memory * MIB if rival.limited else None,
                               swap=self.folder if rival.swap else None,
                               swap_bytes=(self.size + 256) * MIB, env={**PASSIVE, **rival.env}, timeout=timeout)
        result = json.loads(out.splitlines()[-1])
        result["group_peak_bytes"] = peak
        measured = result["seconds"][warm:]
        result["median"] = statistics.median(measured)
        return result

    def choose(self, rival):
        """The fastest of the choices; those that do not work are passed over."""
        best, reason, tried, patience = None, "", {}, None
        for choice in rival.choices:
            if len(rival.choices) == 1:
                return choice, tried
            start = time.monotonic()
            try:
                seconds = self.once(rival, choice, warm=1, steps=1, timeout=patience)["median"]
            except (OSError, cgroup.Killed) as e:
                reason = e
                tried[" ".join(choice)] = str(e)
                continue
            tried[" ".join(choice)] = seconds
            if best is None or seconds < best[0]:
                best = seconds, choice
                patience = 2 * (time.monotonic() - start) + 5
        if best is None:
            raise OSError(reason)
        return best[1], tried

    def traffic(self):
        """R and W of a step."""
        out = subprocess.run([self.program, *self.options, "--trace", "--warm", "2", "--steps", "3"],
                             check=True, capture_output=True, text=True).stdout
        events, _ = bound.parse(out.splitlines())
        r = bound.bound(events, self.memory * MIB)
        return r["read_bytes"], r["written_bytes"]

    def rivals(self, point, wanted):
        """Those to run, with what each is told: as the rounds before were, or what is fastest."""
        result = []
        for rival in rivals():
            if rival.name not in self.names or (wanted and rival.name not in wanted + ["ram"]):
                continue
            try:
                if rival.name not in point["told"]:
                    choice, tried = self.choose(rival)
                    point["told"][rival.name] = {"choice": " ".join(choice), "tried": tried}
                    print(f"  {rival.name}: {' '.join(choice)}", file=sys.stderr)
                result.append(rival)
            except (OSError, cgroup.Killed) as e:
                point["not_run"][rival.name] = str(e)
                print(f"  {rival.name} not run: {e}", file=sys.stderr)
        return result

    def round(self, point, chosen):
        """Every rival once, and the disk before the first and after each."""
        i, reverse = rounds.begin(point)
        share = point["bound"]["read_percent"]
        rates = [d["GBps"] for d in disk_rates(self.folder, self.size, (share, 100, 50, 0))]
        r = point["rounds"][i]
        r.update(mixed_GBps=rates[:1], read_GBps=rates[1], half_GBps=rates[2], write_GBps=rates[3])
        for rival in reversed(chosen) if reverse else chosen:
            try:
                rounds.add(point, rival.name, i, rounds.around(
                    point, i, lambda rival=rival: self.once(rival, point["told"][rival.name]["choice"].split()),
                    lambda: disk_rates(self.folder, self.size, (share,), 1)[0]["GBps"]))
            except (OSError, cgroup.Killed) as e:
                point["not_run"][rival.name] = str(e)
        print("  " + rounds.line(point), file=sys.stderr)

    def measure(self, result, wanted):
        read, written = self.traffic()
        share = round(100 * read / (read + written)) if read + written else 50
        point = rounds.point_of(result, "memory_MiB", {
            "memory_MiB": self.memory, "size_MiB": self.size, "steps": self.steps,
            "bound": {"read_bytes": read, "written_bytes": written, "read_percent": share}})
        chosen = self.rivals(point, wanted)
        for _ in range(self.runs):
            self.round(point, chosen)
        # one that was too slow has made fewer steps
        sums = {(len(run["seconds"]), run["sum"]) for r in point["rivals"].values() for run in r["runs"]}
        if len(sums) > len({steps for steps, _ in sums}):
            sys.exit(f"the results differ: { {n: r['runs'][0]['sum'] for n, r in point['rivals'].items()} }")
        rounds.summarise(point)
        return point


def disk_rates(folder, size, shares, seconds=1.5):
    """What the disk gives with those percentages of reads, on a file of that size."""
    out = subprocess.run([tool("disk"), os.path.join(folder, "disk"), str(max(size, 256)), str(seconds),
                          *map(str, shares)], check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def table(title, point):
    b, rivals_ = point["bound"], point["rivals"]
    read, written, half = (statistics.median(r[k] for r in point["rounds"])
                           for k in ("read_GBps", "write_GBps", "half_GBps"))
    print(f"\n{title}; {point['size_MiB']} MiB in {point['memory_MiB']} MiB of memory")
    print(f"disk: {read:.2f} GB/s read, {written:.2f} written, {half:.2f} half and "
          f"half, {b['GBps']:.2f} with {b['read_percent']} % reads")
    print(f"bound: {b['seconds']:.3f} s = max(compute {b['compute_seconds']:.3f}, (R {b['read_bytes'] / 1e9:.3f} + "
          f"W {b['written_bytes'] / 1e9:.3f} GB) / {b['GBps']:.2f})")
    terrace = rivals_.get("terrace")
    print(f"{'':14}{'s/step':>9}{'of bound':>10}{'x terrace':>12}{'peak MiB':>10}{'read MB':>9}{'written':>9}  told")
    for name, r in rivals_.items():
        run = r["runs"][-1]
        peak = run.get("group_peak_bytes") or run.get("peak_rss_bytes")
        moved = [f"{statistics.median(run[k][2:]) / 1e6:>9.0f}" if run.get(k) and len(run[k]) > 2 else f"{'-':>9}"
                 for k in ("read_bytes", "written_bytes")]
        times = rounds.ratio(r, terrace) if terrace else None
        print(f"{name:14}{r['seconds']:>9.3f}{r['of_bound']:>10.2f}" +
              (f"{times:>10.2f} x" if times else f"{'-':>12}") +
              f"{(peak or 0) / MIB:>10.0f}{moved[0]}{moved[1]}  {r['choice']}")
    for name, reason in point["not_run"].items():
        print(f"{name} not run: {reason}")


def bench(name, args):
    """A loop, with one or several amounts of memory; the result for the JSON."""
    what, _, _, memory = LOOPS[name]
    memories, size = args.memory or [memory], args.size or 2048
    if args.quick:
        size = 512
        memories = [max(96, m // 4) for m in memories]
    result = rounds.load(args, name, what)
    print(machine_line(result["machine"]))
    with tempfile.TemporaryDirectory(dir=spill_folder(), prefix="terrace-bench-") as folder:
        for m in memories:
            print(f"{name}, {m} MiB of memory", file=sys.stderr)
            b = Bench(name, m, size, folder, args.runs, 3)
            point = b.measure(result, args.rivals)
            path = save(result, args.results, name)
            if point["rounds"]:
                table(f"{name}: {what}", point)
                print(f"medians of {len(point['rounds'])} rounds; JSON: {path}")
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, "disk"))
