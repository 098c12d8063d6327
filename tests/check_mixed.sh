#!/bin/bash
# The trainer on devices of two vendors: weights where OpenCL computes (PoCL), optimizer
# state where a simulated Ascend does, what does not fit in host memory and on disk, by
# placement rules alone. Results are the same bits as with host memory alone.
. "$(dirname "$0")/tap.sh"
not_sanitized mixed
gpt=$PWD/$BUILD/tests/sim/gpt_mixed
folder=$(mktemp -d "${TMPDIR:-/var/tmp}/terrace-check.XXXXXX") || exit 1
trap 'rm -rf "$folder"; tap_end' EXIT
export TERRACE_NVME_PATH=$folder OMP_WAIT_POLICY=passive SIM_ASCEND_REPORT=1

train() { # NAME [OPTION...]: leaves NAME.json, and what was printed in NAME
    local name=$1
    shift
    timeout 120 "$gpt" --layers 4 --width 128 --heads 4 --context 64 --batch 2 --steps 3 --hash \
        --json "$scratch/$name.json" --data README.md "$@" >"$scratch/$name" 2>&1
    local status=$?
    cat "$scratch/$name"
    return $status
}

on_the_host() { TERRACE_TIERS=numa:0,nvme:0 train host; }
on_both() {
    TERRACE_TIERS=opencl:0,ascend:0,numa:0,nvme:0 TERRACE_LIMIT_OPENCL=4M TERRACE_LIMIT_ASCEND=4M \
        TERRACE_REPORT=$scratch/report.json TERRACE_TRACE=$scratch/trace.json train both --host-limit 4M
}
by_other_rules() { # the moments with the weights; nothing on the Ascend
    TERRACE_TIERS=opencl:0,ascend:0,numa:0,nvme:0 TERRACE_RULES='*: !ascend, role=optimizer: opencl|host' train other
}

same() { # NAME: as the run on the host
    diff <(grep -o 'hash of all.*' "$scratch/host") <(grep -o 'hash of all.*' "$scratch/$1") &&
        diff <(grep '"losses"' "$scratch/host.json") <(grep '"losses"' "$scratch/$1.json") &&
        grep -q '"losses": \[[0-9]' "$scratch/host.json" && grep -q 'hash of all' "$scratch/host"
}
says() { grep -E "$2" "$scratch/$1.json" || { cat "$scratch/$1.json"; return 1; }; }
no_misuse() { grep -i 'simulated runtime' "$scratch/both" | tee "$scratch/said" && [ "$(cat "$scratch/said")" = "simulated runtime: 0 misuses, 0 left" ]; }

# What the report has by vendor, and what moved on which route.
reported() {
    python3 - "$scratch/report.json" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
tier = {t["kind"]: t for t in r["tiers"]}
held = {v["name"]: v["byte_seconds"] / (r["nanoseconds"] * 1e-9) for v in r["vendors"]}
print(held)
route = {(x["from"], x["to"]): x["bytes"] for x in r["routes"]}
print(route)
assert tier["opencl"]["vendor"] != tier["ascend"]["vendor"] == "huawei", tier
for kind in "opencl", "ascend":
    assert held[tier[kind]["vendor"]] > 1 << 20, kind
    assert tier[kind]["peak"] <= 4 << 20, kind
assert route["opencl:0", "ascend:0"] > 1 << 20 and route["ascend:0", "opencl:0"] > 1 << 20
assert tier["nvme"]["in_bytes"] > 1 << 20, "nothing was spilled"
assert tier["numa"]["peak"] <= 4 << 20
PY
}

# No moment was ever on the one device, no weight and no activation on the other.
kept_apart() {
    python3 - "$scratch/trace.json" <<'PY'
import json, sys
seen = {"opencl:0": set(), "ascend:0": set()}
for e in json.load(open(sys.argv[1])):
    name, args = e.get("name", ""), e.get("args", {})
    for tier in seen:
        if "/" in name and tier in (args.get("from"), args.get("to")):
            seen[tier].add("moment" if "moment_" in name else "gradient" if "gradient" in name else "weight or activation")
print(seen)
assert "moment" in seen["ascend:0"] and "weight or activation" not in seen["ascend:0"]
assert "weight or activation" in seen["opencl:0"] and "moment" not in seen["opencl:0"]
PY
}

refused() { # PATTERN COMMAND...: status 3, and why
    local pattern=$1 status
    shift
    "$@" >"$scratch/refused" 2>&1 </dev/null
    status=$?
    cat "$scratch/refused"
    [ $status -eq 3 ] && grep -Eq "$pattern" "$scratch/refused"
}

check "help says the rules" bash -c "'$gpt' --help | grep -q 'role=optimizer: ascend|host|disk'"
if ! env TERRACE_TIERS=opencl:0,numa:0 "$BUILD/bin/terrace" info >/dev/null 2>&1; then
    echo "ok mixed # SKIP there is no OpenCL device (Debian's pocl-opencl-icd has one)"
    exit 0
fi
check "trains in host memory" on_the_host
check "trains on devices of two vendors, with little of each memory" on_both
check "the same losses and hash, to the bit" same both
check "weights are on the one, moments on the other" \
    bash -c "grep -q '\"weights_on\": \"opencl:0\"' '$scratch/both.json' && grep -q '\"moments_on\": \"ascend:0\"' '$scratch/both.json'"
check "the report has bytes with both vendors, and on the disk" reported
check "the timeline has nothing where the rules forbid it" kept_apart
check "the Ascend is used as documented, and nothing of it left" no_misuse
check "other rules: all on the OpenCL device" by_other_rules
check "the same losses and hash again" same other
check "moments are with the weights then" says other '"moments_on": "opencl:0"'
check "rules that put weights where nothing but Adam is computed" refused 'TERRACE_RULES can name other places' \
    env TERRACE_TIERS=ascend:0,numa:0 TERRACE_RULES='*: ascend|host' "$gpt" --steps 1
check "rules that put moments where there are no kernels" refused 'optimizer state on ascend:0.*there are no kernels' \
    env LD_LIBRARY_PATH="$PWD/$BUILD/tests/sim/ascend" TERRACE_TIERS=ascend:0,numa:0 "$BUILD/examples/gpt_mixed" --steps 1
