"""Drives examples/gpt: a trainer with less and less of its working set in memory.

Each run is a process in a memory cgroup: the share of the working set, plus
what the trainer has besides tensors (code, stacks, scratch: measured when all
fits). terrace's budget is the share. Its rivals are the same trainer over plain
memory (bench/loop/plain.c) with the same limit: swap, and a mapped file. All
must come to the same losses and weights. The bound is that of loops.py.

A disk takes its share of processors and memory, on a virtual machine more than
that: so all in memory is also measured beside as much disk traffic per second as
the bound has ("ram+disk"), which has nothing to do with what is computed.
"""
import contextlib
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
from common import BUILD, MIB, machine_line, save, spill_folder, tool
from loops import PASSIVE, disk_rates

SHARES = [100, 75, 50, 25, 12]
WARM = 2           # steps not counted
SLACK = 8 * MIB    # the kernel charges memory in batches
MOST_STEPS = {"swap": 4, "mmap": 4}
CHOICES = {"terrace": [{}],
           "swap": [{"BENCH_ADVICE": a} for a in ("normal", "willneed")],
           "mmap": [{"BENCH_ADVICE": a} for a in ("sequential", "willneed")]}


class Trainer:
    def __init__(self, folder, options, steps):
        self.folder, self.options, self.steps = folder, options, steps
        self.json = os.path.join(folder, "gpt.json")
        self.program = os.path.join(BUILD, "examples", "gpt")
        self.working_set = self.besides = 0

    def run(self, kind, limit=None, budget=None, choice=None, steps=None, trace=None, timeout=None):
        """One training; `kind`: terrace, or what takes its place."""
        env = {**PASSIVE, "TERRACE_NVME_PATH": self.folder, **(choice or {})}
        command = [self.program, *self.options, "--steps", str(steps or self.steps), "--json", self.json]
        if kind == "terrace":
            if budget:
                command += ["--host-limit", str(budget)]
        else:
            env.update(LD_PRELOAD=os.path.abspath(tool("plain.so")),
                       BENCH_MEMORY=self.folder if kind == "mmap" else "anonymous")
            if trace:
                env["BENCH_TRACE"] = trace
        _, peak = cgroup.run(command, limit, swap=self.folder if kind == "swap" else None,
                             swap_bytes=self.working_set + 512 * MIB, env=env, timeout=timeout)
        with open(self.json, encoding="ascii") as f:
            result = json.load(f)
        result["group_peak_bytes"] = peak
        result["median"] = statistics.median(result["step_seconds"][WARM:] or result["step_seconds"])
        return result

    def learn(self):
        """Working set, memory besides tensors, and the accesses of the steps."""
        trace = os.path.join(self.folder, "trace")
        self.run("plain", steps=3, trace=trace)
        with open(trace, encoding="ascii") as f:
            lines = f.read().splitlines()
        last = len(lines) - lines[::-1].index("step")  # then come the hashes
        self.events, _ = bound.parse(lines[:last])
        most = self.run("terrace", limit=1 << 40, steps=2)
        self.working_set = most["working_set_bytes"]
        peak = most["group_peak_bytes"] or most["peak_rss_bytes"]
        self.besides = max(peak - most["host_peak_bytes"], most["scratch_bytes"] + SLACK) + SLACK

    def choose(self, kind, limit):
        best, tried, patience = None, {}, None
        for choice in CHOICES[kind]:
            if len(CHOICES[kind]) == 1:
                return choice, tried
            label, start = choice["BENCH_ADVICE"], time.monotonic()
            try:
                tried[label] = self.run(kind, limit, choice=choice, steps=2, timeout=patience)["step_seconds"][-1]
            except (OSError, cgroup.Killed) as e:
                tried[label] = str(e)
                continue
            if best is None or tried[label] < best[0]:
                best = tried[label], choice
                patience = 2 * (time.monotonic() - start) + 5
        if best is None:
            raise OSError(next(iter(tried.values())))
        return best[1], tried


@contextlib.contextmanager
def traffic(folder, size, percent, rate):
    """So many bytes a second to and from the disk, meanwhile."""
    if rate < MIB:
        yield
        return
    with subprocess.Popen([tool("disk"), "-r", str(rate / 1e6), os.path.join(folder, "disk"), str(max(size, 256)),
                           "3600", str(percent)], stdout=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.5)
            yield
        finally:
            process.kill()


def choose_all(trainer, point, kinds, limit):
    """Those to run; what each is told is chosen where no round before did."""
    chosen = []
    for kind in kinds:
        try:
            if kind not in point["told"]:
                choice, tried = trainer.choose(kind, limit)
                point["told"][kind] = {"choice": choice.get("BENCH_ADVICE", ""), "tried": tried}
            chosen.append(kind)
        except (OSError, cgroup.Killed) as e:
            point["not_run"][kind] = str(e)
    return chosen


def round_of(trainer, point, kinds, limit, budget):
    """The disk, all in memory without and with traffic beside it, and every rival, once."""
    i, reverse = rounds.begin(point)
    b, huge = point["bound"], {"BENCH_ADVICE": "huge"}
    mib, percent = trainer.working_set // MIB, b["read_percent"]
    rates = [disk_rates(trainer.folder, mib, (percent,))[0]["GBps"]]
    point["rounds"][i]["mixed_GBps"] = rates
    point["told"].update({name: {"choice": "huge", "tried": {}} for name in ("ram", "ram+disk")})
    ram = trainer.run("plain", choice=huge)
    rounds.add(point, "ram", i, ram)
    with traffic(trainer.folder, mib, percent, (b["read_bytes"] + b["written_bytes"]) / ram["median"]):
        rounds.add(point, "ram+disk", i, trainer.run("plain", choice=huge))
    for kind in reversed(kinds) if reverse else kinds:
        steps = min(trainer.steps, MOST_STEPS.get(kind, trainer.steps))
        told = point["told"][kind]["choice"]
        try:
            rounds.add(point, kind, i, rounds.around(
                point, i, lambda k=kind, t=told, s=steps: trainer.run(k, limit, budget,
                                                                      {"BENCH_ADVICE": t} if t else {}, s),
                lambda: disk_rates(trainer.folder, mib, (percent,), 1)[0]["GBps"]))
        except (OSError, cgroup.Killed) as e:
            point["not_run"][kind] = str(e)
    print(f"  {point['share']} % {rounds.line(point)}", file=sys.stderr)


def same_results(trainer, point):
    first = point["rivals"]["ram"]["runs"][0]
    for kind, row in point["rivals"].items():
        for r in row["runs"]:
            if r["losses"] != first["losses"][:len(r["losses"])]:
                sys.exit(f"gpt at {point['share']} %: the losses of {kind} are others")
            if len(r["losses"]) == trainer.steps and r["hash"] != first["hash"]:
                sys.exit(f"gpt at {point['share']} %: the weights of {kind} are others")


def measure(trainer, result, share, kinds, runs):
    """All with one share of the working set: so many rounds more of its point."""
    budget = trainer.working_set * share // 100
    limit = budget + trainer.besides
    b = bound.bound(trainer.events, budget)
    read, written = b["read_bytes"], b["written_bytes"]
    percent = round(100 * read / (read + written)) if read + written else 50
    point = rounds.point_of(result, "share", {
        "share": share, "memory_MiB": budget / MIB, "limit_MiB": limit / MIB,
        "size_MiB": trainer.working_set / MIB, "steps": trainer.steps,
        "bound": {"read_bytes": read, "written_bytes": written, "read_percent": percent}})
    chosen = choose_all(trainer, point, kinds, limit)
    for _ in range(runs):
        round_of(trainer, point, chosen, limit, budget)
    if point["rounds"]:
        same_results(trainer, point)
    rounds.summarise(point)


def table(points):
    kinds = list(dict.fromkeys(k for p in points for k in [*p["rivals"], *p["not_run"]] if k != "ram"))
    print(f"{'memory':>10}{'bound':>9}{'compute':>9}{'disk':>9}" +
          "".join(f"{k:>11}{'x bound':>9}" for k in kinds) + "   (s/step)")
    for p in points:
        b, line = p["bound"], ""
        for k in kinds:
            row = p["rivals"].get(k)
            line += f"{row['seconds']:>11.3f}{1 / row['of_bound']:>9.2f}" if row else f"{'-':>11}{'':>9}"
        print(f"{p['share']:>8} %{b['seconds']:>11.3f}{b['compute_seconds']:>9.3f}{b['disk_seconds']:>9.3f}{line}")
    print("rounds: " + ", ".join(f"{len(p['rounds'])} at {p['share']} %" for p in points))
    for p in points:
        for k, reason in p["not_run"].items():
            print(f"{k} at {p['share']} % not run: {reason}")


def bench(args):
    kinds = [k for k in CHOICES if not args.rivals or k in args.rivals]
    options = ["--width", "448", "--heads", "7"] if args.quick else ["--batch", "2"]
    result = rounds.load(args, "gpt", "a GPT trained with a share of its working set in memory")
    with tempfile.TemporaryDirectory(dir=spill_folder(), prefix="terrace-bench-") as folder:
        trainer = Trainer(folder, options, 5)
        try:
            trainer.learn()
        except (OSError, subprocess.SubprocessError) as e:
            print(f"gpt not run: {e}")
            return
        for share in args.memory or SHARES:
            measure(trainer, result, share, kinds, args.runs)
            path = save(result, args.results, "gpt")
    print(f"\n{machine_line(result['machine'])}\ngpt: {result['what']}, of {trainer.working_set / MIB:.0f} MiB; "
          "losses and weights identical")
    table([p for p in result["points"] if p["rounds"]])
    print(f"medians of the rounds, from step {WARM + 1} on; JSON: {path}")
