#!/usr/bin/env python3
"""plot.py - memory given against time of a step, from a benchmark's JSON, as SVG.

usage: bench/plot.py JSON [SVG]      (default: the JSON's name with .svg)

One line per rival and one for the bound, out of the points of a file that
bench/run.py wrote for a loop or for gpt. Both axes are logarithmic where the
values span more than a factor of four, so that slow rivals leave room to see
the others.
"""
import html
import json
import math
import os
import sys

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 50, 60
COLOURS = {"terrace": "#c8102e", "terrace lru": "#e8909c", "pipeline": "#1f6fb4", "mmap": "#2c8a3d",
           "swap": "#8a5a2c", "swap+madvise": "#c08a4c", "starpu": "#7d3fa0", "bound": "#000000"}


def lines_of(result):
    """{name: [(memory, seconds)]}, in MiB and seconds; the bound comes last."""
    lines, points = {}, sorted((p for p in result["points"] if p["rivals"]), key=lambda p: p["memory_MiB"])
    for p in points:
        for name, r in p["rivals"].items():
            if not name.startswith("ram"):
                lines.setdefault(name, []).append((p["memory_MiB"], r["seconds"]))
    lines["bound"] = [(p["memory_MiB"], p["bound"]["seconds"]) for p in points]
    return lines


class Axis:
    """Values to pixels, and where ticks are."""

    def __init__(self, values, start, end):
        low, high = min(values), max(values)
        self.log = low > 0 and high / low > 4
        if self.log:
            self.low, self.high = low / 1.15, high * 1.15
        else:
            self.low, self.high = 0, high * 1.1
        self.start, self.end = start, end

    def at(self, value):
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self):
        if self.log:
            few = self.high / self.low > 100
            steps = [1, 3] if few else [1, 2, 5]
            every = [m * 10.0 ** e for e in range(-6, 9) for m in steps]
            return [t for t in every if self.low <= t <= self.high]
        step = 10 ** math.floor(math.log10(self.high))
        while self.high / step < 4:
            step /= 2
        return [i * step for i in range(int(self.high / step) + 1)]


def spread(labels, gap):
    """Labels (y, ...) moved apart to at least `gap`."""
    labels = sorted(labels)
    for i in range(1, len(labels)):
        if labels[i][0] < labels[i - 1][0] + gap:
            labels[i] = (labels[i - 1][0] + gap, *labels[i][1:])
    return labels


def draw(result):
    lines = lines_of(result)
    every = [p for line in lines.values() for p in line]
    x = Axis([p[0] for p in every], LEFT, WIDTH - RIGHT)
    y = Axis([p[1] for p in every], HEIGHT - BOTTOM, TOP)
    m, size = result["machine"], result["points"][0]["size_MiB"]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15">{html.escape(result["bench"])}: {html.escape(result["what"])}'
           f'</text>',
           f'<text x="{LEFT}" y="38" fill="#666">{size:.0f} MiB; {m["cpus"]} CPUs, Linux {html.escape(m["kernel"])},'
           f' {m["date"]}</text>']
    for t in x.ticks():
        out.append(f'<path d="M{x.at(t):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>'
                   f'<text x="{x.at(t):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{t:g}</text>')
    for t in y.ticks():
        out.append(f'<path d="M{LEFT} {y.at(t):.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>'
                   f'<text x="{LEFT - 8}" y="{y.at(t) + 4:.1f}" text-anchor="end">{t:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 18}" text-anchor="middle">'
               f'memory, MiB</text><text transform="translate(20 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
               f'text-anchor="middle">seconds a step</text>')
    labels = []
    for name, line in lines.items():
        colour = COLOURS.get(name, "#555")
        path = "M" + "L".join(f"{x.at(a):.1f} {y.at(b):.1f}" for a, b in line)
        dash = ' stroke-dasharray="5 4"' if name == "bound" else ""
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        out += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>' for a, b in line]
        labels.append((y.at(line[-1][1]), name, colour))
    for at, name, colour in spread(labels, 15):
        out.append(f'<text x="{WIDTH - RIGHT + 10}" y="{at + 4:.1f}" fill="{colour}">{html.escape(name)}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: bench/plot.py JSON [SVG]")
    try:
        with open(sys.argv[1], encoding="ascii") as f:
            result = json.load(f)
        text = draw(result)
    except (OSError, ValueError, KeyError, IndexError) as e:
        sys.exit(f"plot.py: {sys.argv[1]} is not a result of adam, inference, random or gpt: {e!r}")
    to = sys.argv[2] if len(sys.argv) == 3 else os.path.splitext(sys.argv[1])[0] + ".svg"
    with open(to, "w", encoding="ascii") as f:
        f.write(text)
    print(to)


if __name__ == "__main__":
    main()
