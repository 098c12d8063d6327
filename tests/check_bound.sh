#!/bin/bash
# bench/bound.py against everything that can be done on small traces, and
# against the bound that bench/policy finds for its own.
. "$(dirname "$0")/tap.sh"
not_sanitized bound
if ! command -v python3 >/dev/null; then
    echo "ok bound # SKIP there is no python3"
    exit 0
fi

agree() { # TRACE FIRST_STEP
    "$BUILD/bench/policy" --dump "$1" >"$scratch/trace" || return 1
    python3 bench/bound.py --from "$2" "$scratch/trace" >"$scratch/bound" || return 1
    python3 - "$scratch" "$1" "$2" <<'END'
import json, sys
folder, trace, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
bound = json.load(open(folder + "/bound"))
there = next(t for t in json.load(open(folder + "/policy"))["traces"] if t["trace"] == trace)
print(bound, there["bound"], there["from_step"])
same = (there["from_step"] == first and
        all(abs(bound[k] - there["bound"][k]) < 1 for k in ("read_bytes", "written_bytes")))
sys.exit(not same)
END
}
# Reads within 3 % of Belady's on equal sizes, else 5 % of the bound, without moving
# more than Belady moves. No more than LRU reads while learning, and where there is
# nothing to learn.
learned() {
    python3 - "$scratch/policy" <<'END'
import json, sys
bad = 0
for t in json.load(open(sys.argv[1]))["traces"]:
    moved = {way: t[way]["read_bytes"] + t[way]["written_bytes"] for way in ("learned", "belady")}
    near = t["read_of_best"] <= (1.03 if t["equal_sizes"] else 1.05)
    if t["random"] and "informed" not in t:
        good = t["read_of_lru"] <= 1.03
    else:
        good = t["read_of_lru_while_learning"] <= 1 and near and moved["learned"] < 1.02 * moved["belady"]
    if not good:
        print(t["trace"], t["read_of_best"], t["read_of_lru_while_learning"], t["read_of_lru"], moved)
        bad = 1
sys.exit(bad)
END
}
refused() { ! python3 bench/bound.py --budget 100 <<<"$1"; }

check "the bound is what exhaustive search finds" python3 tests/bound_brute.py
check "traces are replayed" bash -c "'$BUILD/bench/policy' >'$scratch/policy'"
check "both bounds agree on gpt-quarter" agree gpt-quarter 3
check "both bounds agree on trainer-half" agree trainer-half 3
check "both bounds agree on adam" agree adam 3
check "misses are near the least possible once learned, never more than LRU's" learned
check "a trace that is none is refused" refused "use 1"
check "an item larger than the budget is refused" refused "new 1 200
use 1 r"
