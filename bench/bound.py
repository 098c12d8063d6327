#!/usr/bin/env python3
"""The physical bound of a trace: no program can take less time for a step.

    bound = max(compute with everything resident, (R + W) / disk rate)

R: bytes that must be read. Every byte may be evicted on its own; the byte that
leaves is the one whose next use is furthest (Belady), where bytes that will be
overwritten, freed or never used again count as furthest: nothing is read for
them. Only the item in use has to be in memory, as a whole.

W: bytes that must be written. Of the bytes that one step has changed and that
exist at the same time, no more than the budget can be left unwritten.

A trace is text, one event a line:
    budget BYTES | rate BYTES_PER_SECOND       may be given as options instead
    new ITEM BYTES [ASKED]   BYTES in whole pages; ASKED is not looked at
    free ITEM
    use ITEM r|w|o [NS]      read, change (read and written), overwrite; then compute
    step                     ends a step

Usage: bound.py [--budget B] [--rate B] [--from STEP] [TRACE]
Prints JSON: averages over the steps from --from (counted from 1; default 3) on.
This is independent of lib/policy.c, and tests/bound_brute.py checks it against
all that can be done.
"""
import argparse
import heapq
import json
import sys

NEVER = float("inf")


def parse(lines):
    """Events as tuples, and the settings in the trace."""
    events, settings = [], {}
    for number, line in enumerate(lines, 1):
        word = line.split()
        try:
            if not word:
                continue
            if word[0] in ("budget", "rate"):
                settings[word[0]] = int(word[1])
            elif word[0] == "new":
                events.append(("new", word[1], int(word[2])))
            elif word[0] == "free":
                events.append(("free", word[1]))
            elif word[0] == "use" and word[2] in ("r", "w", "o"):
                events.append(("use", word[1], word[2], int(word[3]) if len(word) > 3 else 0))
            elif word[0] == "step":
                events.append(("step",))
            else:
                raise ValueError("not an event")
        except (IndexError, ValueError) as error:
            raise SystemExit(f"bound.py: line {number}: {line.strip()!r}: {error}")
    if events and events[-1] != ("step",):
        events.append(("step",))
    return events, settings


def next_reads(events):
    """For each event that is a use, when the item is next used with its bytes."""
    coming, result = {}, [NEVER] * len(events)
    for i in range(len(events) - 1, -1, -1):
        event = events[i]
        if event[0] == "free":
            coming.pop(event[1], None)
        elif event[0] == "use":
            result[i] = coming.get(event[1], NEVER)
            coming[event[1]] = NEVER if event[2] == "o" else i
    return result


def reads(events, budget):
    """Bytes read in each step."""
    size, inside, due, held = {}, {}, {}, 0
    heap, result, step = [], [0], 0  # heap: (-next read, item); stale entries are passed over
    following = next_reads(events)
    for i, event in enumerate(events):
        kind = event[0]
        if kind == "new":
            size[event[1]], inside[event[1]] = event[2], 0
        elif kind == "free":
            held -= inside.pop(event[1])
            due.pop(event[1], None)
        elif kind == "step":
            step += 1
            result.append(0)
        else:
            item, mode = event[1], event[2]
            if size[item] > budget:
                raise SystemExit(f"bound.py: item {item} is larger than the budget")
            missing = size[item] - inside[item]
            result[step] += missing if mode != "o" else 0
            inside[item] += missing
            held += missing
            due.pop(item, None)  # in use: not to be evicted
            while held > budget:
                when, other = heap[0]
                if due.get(other) != -when or not inside.get(other):
                    heapq.heappop(heap)
                    continue
                out = min(held - budget, inside[other])
                inside[other] -= out
                held -= out
            due[item] = following[i]
            heapq.heappush(heap, (-following[i], item))
    return result[:step]


def writes(events, budget):
    """Bytes written in each step."""
    size, changed, result, most = {}, set(), [], 0
    for event in events:
        if event[0] == "new":
            size[event[1]] = event[2]
        elif event[0] == "free":
            changed.discard(event[1])
        elif event[0] == "use" and event[2] != "r":
            changed.add(event[1])
            most = max(most, sum(size[item] for item in changed))
        elif event[0] == "step":
            result.append(max(0, most - budget))
            changed, most = set(), 0
    return result


def compute(events):
    """Nanoseconds computed in each step."""
    result, ns = [], 0
    for event in events:
        if event[0] == "use":
            ns += event[3]
        elif event[0] == "step":
            result.append(ns)
            ns = 0
    return result


def bound(events, budget, rate=None, first=3):
    r, w, c = reads(events, budget), writes(events, budget), compute(events)
    first = min(first, len(r)) - 1
    steps = len(r) - first
    read, written = sum(r[first:]) / steps, sum(w[first:]) / steps
    seconds = sum(c[first:]) / steps / 1e9
    result = {"budget": budget, "steps": len(r), "read_bytes": read, "written_bytes": written,
              "compute_seconds": seconds}
    if rate:
        result["rate"] = rate
        result["disk_seconds"] = (read + written) / rate
        result["bound_seconds"] = max(seconds, result["disk_seconds"])
    return result


def main():
    arguments = argparse.ArgumentParser(description="The physical bound of a trace.")
    arguments.add_argument("--budget", type=int, help="bytes of memory")
    arguments.add_argument("--rate", type=int, help="bytes per second, reads and writes mixed")
    arguments.add_argument("--from", dest="first", type=int, default=3, help="first step that counts")
    arguments.add_argument("trace", nargs="?", help="a file; else standard input")
    given = arguments.parse_args()
    with open(given.trace) if given.trace else sys.stdin as file:
        events, settings = parse(file)
    budget = given.budget or settings.get("budget")
    if not budget or not events or given.first < 1:
        raise SystemExit("bound.py: it takes a budget, events, and a step from 1 on")
    json.dump(bound(events, budget, given.rate or settings.get("rate"), given.first), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
