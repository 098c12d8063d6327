#!/usr/bin/env python3
"""bench/bound.py against everything that can be done, on small random traces.

For every use, all ways to evict single bytes are tried; what is least read and
least written by any of them is what the bound must not exceed, and for reads it
must be reached."""
import itertools
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench"))
sys.dont_write_bytecode = True
import bound  # noqa: E402


def random_trace(draw):
    """Events over a few items of a few bytes, and a budget that holds the largest."""
    events, alive, names = [], {}, itertools.count()
    for _ in range(draw.randint(2, 3)):
        name = str(next(names))
        alive[name] = draw.randint(1, 3)
        events.append(("new", name, alive[name]))
    for _ in range(draw.randint(5, 10)):
        chance = draw.random()
        if chance < 0.08 and len(alive) > 1:
            name = draw.choice(sorted(alive))
            del alive[name]
            events.append(("free", name))
        elif chance < 0.16 and len(alive) < 4:
            name = str(next(names))
            alive[name] = draw.randint(1, 3)
            events.append(("new", name, alive[name]))
        elif chance < 0.24 and events[-1][0] == "use":
            events.append(("step",))
        else:
            events.append(("use", draw.choice(sorted(alive)), draw.choice("rrwo"), 0))
    events.append(("step",))
    return events, draw.randint(3, 5)


def ways_out(state, keep, surplus):
    """All ways to evict `surplus` bytes of others than `keep`: (state, writes).
    A state is a sorted tuple of (item, clean bytes, dirty bytes)."""
    others = [entry for entry in state if entry[0] != keep]
    rest = [entry for entry in state if entry[0] == keep]

    def choose(index, left, out, written):
        if left == 0:
            yield tuple(sorted(rest + out + others[index:])), written
        elif index < len(others):
            item, clean, dirty = others[index]
            for c in range(min(clean, left) + 1):
                for d in range(min(dirty, left - c) + 1):
                    yield from choose(index + 1, left - c - d, out + [(item, clean - c, dirty - d)],
                                      written + d)

    yield from choose(0, surplus, [], 0)


def least(events, budget, cost_of):
    """The least cost_of(bytes read, bytes written) of any way through."""
    size, states = {}, {(): 0}
    for event in events:
        after = {}

        def reach(state, cost):
            if after.get(state, cost + 1) > cost:
                after[state] = cost

        if event[0] == "new":
            size[event[1]] = event[2]
        if event[0] in ("new", "step"):
            continue
        for state, cost in states.items():
            inside = {item: (clean, dirty) for item, clean, dirty in state}
            if event[0] == "free":
                inside.pop(event[1], None)
                reach(tuple(sorted((i, c, d) for i, (c, d) in inside.items())), cost)
                continue
            item, mode = event[1], event[2]
            clean, dirty = inside.get(item, (0, 0))
            missing = size[item] - clean - dirty
            inside[item] = (clean + missing, dirty)
            full = tuple(sorted((i, c, d) for i, (c, d) in inside.items()))
            surplus = max(0, sum(c + d for _, c, d in full) - budget)
            for then, written in ways_out(full, item, surplus):
                if mode != "r":
                    then = tuple((i, 0, size[i]) if i == item else (i, c, d) for i, c, d in then)
                reach(then, cost + cost_of(missing if mode != "o" else 0, written))
        states = after
    return min(states.values())


def check(seed):
    events, budget = random_trace(random.Random(seed))
    read, written = sum(bound.reads(events, budget)), sum(bound.writes(events, budget))
    least_read = least(events, budget, lambda r, w: r)
    if read != least_read:
        return f"reads: the bound is {read}, {least_read} is possible"
    # What is dirty at the beginning of a step may have been counted before.
    step = bound.writes(events, budget)
    least_written = least(events, budget, lambda r, w: w)
    if max(step, default=0) > least_written:
        return f"writes: the bound of one step is {max(step)}, {least_written} is possible for all"
    least_both = least(events, budget, lambda r, w: r + w)
    if read + max(step, default=0) > least_both:
        return f"both: the bound is {read} + {max(step)}, {least_both} is possible"
    if written > least_written:
        return f"writes: the bound is {written}, {least_written} is possible"
    return None


def main():
    traces = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    read = written = 0
    for seed in range(traces):
        wrong = check(seed)
        if wrong:
            events, budget = random_trace(random.Random(seed))
            print(f"trace {seed}, budget {budget}: {events}\n{wrong}")
            return 1
        events, budget = random_trace(random.Random(seed))
        read += sum(bound.reads(events, budget)) > 0
        written += sum(bound.writes(events, budget)) > 0
    print(f"{traces} traces, {read} with reads, {written} with writes")
    return 0 if read and written else 1


if __name__ == "__main__":
    sys.exit(main())
