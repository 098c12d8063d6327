#!/usr/bin/env python3
"""table.py - a benchmark's JSON as a Markdown table.

usage: bench/table.py JSON

For one amount of memory: a row for the bound and one for each rival, with what
was moved in a step. For several: a row for each amount, a column for each rival.
"""
import json
import statistics
import sys


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def megabytes(run):
    """Read and written in a step, or nothing where a rival does not count it."""
    if len(run.get("read_bytes", [])) <= 2:
        return ""
    return ", ".join(f"{statistics.median(run[k][2:]) / 1e6:.0f}" for k in ("read_bytes", "written_bytes")) + " MB"


def one(point):
    b = point["bound"]
    row("", "a step", "of the bound", "read, written in a step")
    row("---", "---", "---", "---")
    row("bound", f"{b['seconds']:.2f} s", "", f"{b['read_bytes'] / 1e6:.0f}, {b['written_bytes'] / 1e6:.0f} MB")
    for name, r in sorted(point["rivals"].items(), key=lambda r: (r[0].startswith("ram"), r[1]["seconds"])):
        label = name + (f" ({r['choice']})" if r["choice"] and name != "terrace lru" else "")
        part = "" if name.startswith("ram") else f"{r['of_bound']:.2f}"
        row(label, f"{r['seconds']:.2f} s", part, megabytes(r["runs"][-1]))


def several(points):
    names = list(dict.fromkeys(n for p in points for n in p["rivals"]))
    row("memory", "bound", *names)
    row("---", "---", *["---"] * len(names))
    for p in sorted(points, key=lambda p: -p["memory_MiB"]):
        share = f" ({p['share']} %)" if "share" in p else ""
        times = [f"{p['rivals'][n]['seconds']:.2f} s ({1 / p['rivals'][n]['of_bound']:.2f} x)"
                 if n in p["rivals"] else "" for n in names]
        row(f"{p['memory_MiB']:.0f} MiB{share}", f"{p['bound']['seconds']:.2f} s", *times)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: bench/table.py JSON")
    try:
        with open(sys.argv[1], encoding="ascii") as f:
            result = json.load(f)
        points = [p for p in result["points"] if p["rivals"]]
        if not points:
            sys.exit(f"table.py: {sys.argv[1]} has no round yet")
        one(points[0]) if len(points) == 1 else several(points)
    except (OSError, ValueError, KeyError, IndexError) as e:
        sys.exit(f"table.py: {sys.argv[1]} is not a result of adam, inference, random or gpt: {e!r}")
    rounds = sorted({len(p["rounds"]) for p in points})
    print("\nMedians of " + " to ".join(map(str, dict.fromkeys((rounds[0], rounds[-1])))) + " rounds; "
          "a factor is of the bound in the same round.")


if __name__ == "__main__":
    main()
