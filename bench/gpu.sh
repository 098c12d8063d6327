#!/bin/bash
# Measures on an NVIDIA device: copies, disk, mapping (bench/gpu.c), and the trainer
# examples/gpt_cuda with less and less of the device's memory, against the same with
# all of it and against the bound: the most of
#   a step with all of the memory,
#   what must be moved each way at the least (bench/bound.py), at the bus's rate,
#   both together, at the bus's rate for both ways at once.
# Runs what `make gpu` has built; nothing else need be installed. What cannot be run
# here is said. Results: bench/results/DATE-DEVICE-gpu.json, or in $RESULTS.
#
# SIMULATED=1: on the simulated driver, to try this script; nothing is stored.
# GPT="--layers 4 ..." for another model, RUNS=N, NVME=FOLDER for the disk.
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
BUILD=${BUILD:-build} RUNS=${RUNS:-3}
if [ -n "${SIMULATED:-}" ]; then
    bench=$BUILD/bench/gpu disk=$BUILD/bench/disk gpt=$BUILD/tests/sim/gpt_cuda quick=--quick
    export LD_LIBRARY_PATH=$PWD/$BUILD/tests/sim
else
    bench=$BUILD/gpu/bench disk=$BUILD/gpu/disk gpt=$BUILD/gpu/gpt_cuda quick=
fi
folder=$(mktemp -d "${NVME:-${TERRACE_NVME_PATH:-${TMPDIR:-/var/tmp}}}/terrace-gpu.XXXXXX") || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0

not_run() { echo "$1: not run: $2"; } # WHAT WHY
fail() { echo "$1: FAILED: $2" && failed=1; }
number() { sed -n "s/^ *\"$1\": \([0-9.e+-]*\),*$/\1/p" "$2"; } # KEY FILE
calc() { awk "BEGIN { printf \"%.9g\", $1 }"; }
median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# Driver's rate of one way, in GB/s, with the largest size it was measured for.
rate() { sed -n "s/.*\"way\": \"$1\", .*\"driver_GBps\": \([0-9.]*\).*/\1/p" "$folder/copies" | tail -n 1; }

copies() {
    # shellcheck disable=SC2086 # nothing or one word
    "$bench" $quick --folder "$folder" --json "$folder/copies" 2>"$folder/why"
    case $? in
    0) ;;
    3) not_run "copies, disk, mapping" "$(cat "$folder/why")" && return 1 ;;
    *) fail "copies, disk, mapping" "$(cat "$folder/why")" && return 1 ;;
    esac
}

# The disk by itself, against which the way to the device and back is held.
disk_alone() {
    local size=4096 seconds=5
    [ -z "$quick" ] || size=128 seconds=1
    if ! "$disk" "$folder/disk" $size $seconds 100 0 >"$folder/disk_rates" 2>"$folder/why"; then
        not_run "the disk by itself" "$(cat "$folder/why")"
        return
    fi
    rm -f "$folder/disk"
    local read write bus_in bus_out down up
    read=$(sed -n 's/.*"read_GBps": \([0-9.]*\),.*/\1/p' "$folder/disk_rates" | head -n 1)
    write=$(sed -n 's/.*"write_GBps": \([0-9.]*\).*/\1/p' "$folder/disk_rates" | tail -n 1)
    bus_in=$(rate "to the device") bus_out=$(rate back)
    down=$(sed -n 's/.*"device_to_disk_GBps": \([0-9.]*\).*/\1/p' "$folder/copies")
    up=$(sed -n 's/.*"disk_to_device_GBps": \([0-9.]*\).*/\1/p' "$folder/copies")
    disk_json="\"disk_alone\": {\"read_GBps\": $read, \"write_GBps\": $write},"
    awk -v r="$read" -v w="$write" -v i="$bus_in" -v o="$bus_out" -v d="$down" -v u="$up" 'BEGIN {
        a = r < i ? r : i; b = w < o ? w : o
        printf "disk to device %.2f of the slower of disk and bus (%.2f GB/s), device to disk %.2f (of %.2f GB/s)\n", u / a, a, d / b, b }'
}

# One training; a file NAME.json, and the median of its steps from the third on.
train() { # NAME OPTION...
    local name=$1
    shift
    # shellcheck disable=SC2086 # options
    TERRACE_NVME_PATH=$folder "$gpt" $model --data LICENSE --json "$folder/$name.json" "$@" \
        >"$folder/out" 2>"$folder/why" || return
    sed -n 's/^ *"step_seconds": \[\(.*\)\],/\1/p' "$folder/$name.json" | tr -d ' ' | tr , '\n' | tail -n +3 | median
}

# Times of several trainings that all come to the same losses; leaves `seconds`.
trainings() { # NAME OPTION...
    local name=$1 i
    shift
    : >"$folder/times"
    for ((i = 0; i < RUNS; i++)); do
        train "$name" "$@" >>"$folder/times" || return
        grep '"losses"' "$folder/$name.json" >"$folder/losses"
        [ -e "$folder/first" ] || cp "$folder/losses" "$folder/first"
        if ! cmp -s "$folder/losses" "$folder/first"; then
            echo "the losses are not those with all of the memory" >"$folder/why"
            return 1
        fi
    done
    seconds=$(median <"$folder/times")
}

# A fifth of the memory of a large device; a small one's would not hold it.
choose_model() {
    model="--layers 24 --width 2048 --heads 16 --context 1024 --batch 4 --steps 6"
    [ "$(sed -n 's/.*"limit": \([0-9]*\).*/\1/p' "$folder/copies" | head -n 1)" -gt 34000000000 ] ||
        model="--layers 6 --width 1536 --heads 12 --context 512 --batch 4 --steps 6"
    [ -z "$quick" ] || model="--layers 2 --width 32 --heads 2 --context 32 --batch 2 --steps 4 --own-products"
    model=${GPT:-$model}
}

bound_of() { # BUDGET
    python3 bench/bound.py --budget "$1" --from 3 "$folder/trace" >"$folder/bound" 2>"$folder/why" || return
    awk -v r="$(number read_bytes "$folder/bound")" -v w="$(number written_bytes "$folder/bound")" -v all="$all" \
        -v i="$(rate "to the device")" -v o="$(rate back)" -v b="$(rate "both at once")" 'BEGIN {
        m = all; t = r / i / 1e9; if (t > m) m = t; t = w / o / 1e9; if (t > m) m = t
        t = (r + w) / b / 1e9; if (b > 0 && t > m) m = t; printf "%.9g", m }'
}

trainer() {
    [ -x "$gpt" ] || { not_run gpt_cuda "$gpt was not built, for want of nvcc" && return; }
    choose_model
    train unlimited --trace "$folder/trace" >/dev/null || { fail gpt_cuda "$(cat "$folder/why")" && return; }
    trainings unlimited || { fail gpt_cuda "$(cat "$folder/why")" && return; }
    local all=$seconds need share budget bound line
    need=$(number working_set_bytes "$folder/unlimited.json")
    echo "gpt_cuda $model: $((need >> 20)) MiB of tensors, products: $(sed -n 's/.*"products": "\(.*\)",/\1/p' "$folder/unlimited.json")"
    printf 'all of the memory   %8.4f s a step\n' "$all"
    gpt_json="\"gpt\": {\"model\": \"$model\", \"need_bytes\": $need, \"unlimited_seconds\": $all, \"shares\": ["
    for share in 100 50 25; do
        budget=$((need * share / 100 / 2097152 * 2097152))
        [ -z "$quick" ] || budget=$((need * share / 100 / 4096 * 4096))
        if ! trainings "share$share" --hbm-limit $budget; then
            fail "gpt_cuda with $share %" "$(cat "$folder/why")"
            continue
        fi
        if bound=$(bound_of $budget); then
            line=$(printf 'bound %8.4f s, %.2f of it reached' "$bound" "$(calc "$bound / $seconds")")
        else
            bound=null line="bound: not run: $(tail -n 1 "$folder/why")"
        fi
        printf '%3d %% of that       %8.4f s a step, %5.2f times; %s; moved %s MiB\n' $share "$seconds" \
            "$(calc "$seconds / $all")" "$line" "$(moved "share$share")"
        gpt_json+="$gpt_comma{\"share\": $share, \"limit_bytes\": $budget, \"seconds\": $seconds, \"bound_seconds\": $bound}"
        gpt_comma=', '
    done
    gpt_json+=']},'
}
gpt_comma=

# MiB to the device and back in the last step.
moved() { # NAME
    local key found=()
    for key in step_read_bytes step_written_bytes; do
        found+=($(($(sed -n "s/^ *\"$key\": \[\(.*\)\],/\1/p" "$folder/$1.json" | sed 's/.*, *//') >> 20)))
    done
    echo "${found[0]} + ${found[1]}"
}

torch() {
    if ! python3 -c 'import torch' 2>/dev/null; then
        not_run "PyTorch's own offload" "no python3 with torch here"
    elif [ -n "$quick" ]; then
        not_run "PyTorch's own offload" "it knows no simulated device"
    # shellcheck disable=SC2086 # options
    elif python3 bench/gpu_torch.py $model --data LICENSE --json "$folder/torch" 2>"$folder/why"; then
        torch_json="\"torch\": $(cat "$folder/torch"),"
    else
        not_run "PyTorch's own offload" "$(tail -n 1 "$folder/why")"
    fi
}

store() {
    local device name
    device=$(sed -n 's/.*"device": "\([^",]*\).*/\1/p' "$folder/copies" | head -n 1)
    name=${RESULTS:-bench/results}/$(date +%F)-$(tr 'A-Z ' 'a-z-' <<<"$device")-gpu.json
    {
        echo "{\"date\": \"$(date +%F)\", \"runs\": $RUNS, \"kernel\": \"$(uname -r)\", ${disk_json-} ${gpt_json-} ${torch_json-}"
        echo " \"bench\": $(cat "$folder/copies")}"
    } >"$folder/result"
    if command -v python3 >/dev/null && ! python3 -m json.tool "$folder/result" >/dev/null 2>"$folder/why"; then
        fail "the results as JSON" "$(cat "$folder/why")"
    fi
    if [ -n "${SIMULATED:-}" ]; then
        echo "simulated: nothing is stored"
    else
        cp "$folder/result" "$name" && echo "$name"
    fi
}

if copies; then
    disk_alone
    trainer
    torch
    store
else
    for what in "the disk by itself" gpt_cuda "PyTorch's own offload"; do
        not_run "$what" "$(cat "$folder/why")"
    done
fi
exit $failed
