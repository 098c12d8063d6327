"""Rounds of a benchmark, and what they come to.

A round measures the disk and every rival once; a point (one amount of memory)
has several. Each round has its own bound, from the rate of the disk and the
compute time measured within it, since a disk's rate changes from minute to
minute. The disk is measured before and after each rival; a rival's part of the
bound is the median, over the rounds, of the bound at the mean of these two
rates over its time. Times, rates and bounds are medians, too.

With --append a point goes on where the file left it, so that rounds can be
run one by one, by processes of their own, between other work; what rivals were
told is then taken from the file as well.
"""
import json
import os
import statistics
import sys

from common import machine

SAME = ("size_MiB", "steps")  # what rounds of one point have in common


def load(args, name, what):
    """The result to add to: what the file holds, or a new one."""
    fresh = {"bench": name, "what": what, "machine": machine(), "points": []}
    path = os.path.join(args.results, name + ".json")
    if not args.append or not os.path.exists(path):
        return fresh
    try:
        with open(path, encoding="ascii") as f:
            found = json.load(f)
        machines = [{k: v for k, v in m.items() if k != "date"} for m in (found["machine"], fresh["machine"])]
        rounds = all("rounds" in p for p in found["points"])
    except (OSError, ValueError, KeyError) as e:
        sys.exit(f"{path} is not a result to append to: {e!r}")
    if machines[0] != machines[1] or not rounds:
        sys.exit(f"{path} was measured on another machine or without rounds; move it away, or leave out --append")
    return found


def point_of(result, key, given):
    """The point with given[key], made where there is none; `given` is what it starts with."""
    for p in result["points"]:
        if p[key] == given[key]:
            other = [f"{k} {p[k]} and {given[k]}" for k in SAME if p[k] != given[k]]
            if other:
                sys.exit(f"the rounds to append to differ: {', '.join(other)}")
            return p
    point = {**given, "rounds": [], "told": {}, "rivals": {}, "not_run": {}}
    result["points"].append(point)
    return point


def begin(point):
    """A new round: its number, and whether rivals go in reverse."""
    point["rounds"].append({})
    return len(point["rounds"]) - 1, len(point["rounds"]) % 2 == 0


def around(point, i, run, measure):
    """What run() returns, with the disk's rate around it: measure() is the rate after it."""
    rates = point["rounds"][i]["mixed_GBps"]
    try:
        result = run()
    finally:
        rates.append(measure())
    return {**result, "GBps": (rates[-2] + rates[-1]) / 2}


def add(point, name, i, run):
    """A rival's run in round i."""
    row = point["rivals"].setdefault(name, {**point["told"].get(name, {}), "runs": []})
    row["runs"].append({"round": i, **run})
    point["not_run"].pop(name, None)


def line(point):
    """The last round in a line."""
    i, r = len(point["rounds"]) - 1, point["rounds"][-1]
    times = {name: of_round(row, i) for name, row in point["rivals"].items()}
    return f"round {i + 1}: disk {statistics.median(r['mixed_GBps']):.2f} GB/s, " + ", ".join(
        f"{name} {seconds:.3f} s" for name, seconds in times.items() if seconds is not None)


def of_round(row, i):
    """The median time of a step of a rival in a round, or None."""
    return next((run["median"] for run in row["runs"] if run["round"] == i), None)


def ratio(row, other):
    """Medians of `row` over `other` in the same rounds, or None."""
    pairs = [(of_round(row, r["round"]), r["median"]) for r in other["runs"]]
    ratios = [a / b for a, b in pairs if a is not None]
    return statistics.median(ratios) if ratios else None


def summarise(point):
    """Fills in the bound and each rival's figures from the rounds that are there."""
    b, rivals = point["bound"], point["rivals"]
    computes = [run["median"] for run in rivals["ram"]["runs"]] if "ram" in rivals else []
    bytes_moved = b["read_bytes"] + b["written_bytes"]
    for i, r in enumerate(point["rounds"]):
        r["GBps"] = statistics.median(r["mixed_GBps"])
        r["compute_seconds"] = (computes and of_round(rivals["ram"], i)) or statistics.median(computes or [0.0])
        r["bound_seconds"] = max(r["compute_seconds"], bytes_moved / (r["GBps"] * 1e9))
    if not point["rounds"]:
        return
    b["GBps"] = statistics.median(r["GBps"] for r in point["rounds"])
    b["compute_seconds"] = statistics.median(r["compute_seconds"] for r in point["rounds"])
    b["disk_seconds"] = statistics.median(bytes_moved / (r["GBps"] * 1e9) for r in point["rounds"])
    b["seconds"] = statistics.median(r["bound_seconds"] for r in point["rounds"])
    def part(run):
        r = point["rounds"][run["round"]]
        return max(r["compute_seconds"], bytes_moved / (run.get("GBps", r["GBps"]) * 1e9)) / run["median"]

    for row in rivals.values():
        row["seconds"] = statistics.median(run["median"] for run in row["runs"])
        row["of_bound"] = statistics.median(part(run) for run in row["runs"])
    point["runs"] = len(point["rounds"])
