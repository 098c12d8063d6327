#!/bin/bash
# Checks on an NVIDIA device what `make gpu` has built: the backend's tests and those
# of tensors on the device, against the real driver; the trainer examples/gpt_cuda,
# whose losses are those of the CPU's and whose weights are the same bits however
# little of the device's memory it has; and that under compute-sanitizer. Nothing
# else need be installed. Prints a line for each: ok, not ok, or not run and why;
# fails only where one is not ok. Results: bench/results/DATE-DEVICE-gpu-check.json, or
# in $RESULTS.
#
# SIMULATED=1: the trainer's part on the simulated driver (`make programs`).
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
BUILD=${BUILD:-build}
if [ -n "${SIMULATED:-}" ]; then
    gpt=$BUILD/tests/sim/gpt_cuda cpu=$BUILD/examples/gpt
    model="--layers 2 --width 64 --heads 2 --context 48 --batch 2"
    export LD_LIBRARY_PATH=$PWD/$BUILD/tests/sim
else
    gpt=$BUILD/gpu/gpt_cuda cpu=$BUILD/gpu/gpt
    model="--layers 4 --width 512 --heads 8 --context 256 --batch 2"
fi
scratch=$(mktemp -d) || exit 1
folder=$(mktemp -d "${NVME:-${TERRACE_NVME_PATH:-${TMPDIR:-/var/tmp}}}/terrace-gpu.XXXXXX") || exit 1
trap 'rm -rf "$scratch" "$folder"' EXIT
for name in $(compgen -e TERRACE_); do unset "$name"; done
export TERRACE_NVME_PATH=$folder
passed=0 failed=0 refused=0 json='' absent=''

result() { # NAME RESULT
    json+="$json_comma{\"check\": \"$1\", \"result\": \"$2\"}"
    json_comma=$',\n  '
}
json_comma=

not_run() { # NAME WHY
    echo "not run: $1: $2"
    refused=$((refused + 1))
    result "$1" "not run"
}

# Where the machine has no device, nothing is run, for that reason.
check() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 status
    shift 2
    if [ -n "$absent" ]; then
        not_run "$name" "$absent"
        return
    fi
    if [ "$(type -t "$1")" = function ]; then
        timeout -k 10 "$limit" bash -c '"$@"' check "$@" >"$scratch/output" 2>&1 </dev/null
    else
        timeout -k 10 "$limit" "$@" >"$scratch/output" 2>&1 </dev/null
    fi
    status=$?
    if [ $status -eq 0 ]; then
        local tests skipped
        tests=$(sed -n 's/.*Synthesis: Tested: \([0-9]*\).*/\1/p' "$scratch/output")
        skipped=$(grep -c '^\[SKIP\]' "$scratch/output")
        echo "ok $name${tests:+ ($((tests - skipped)) tests, $skipped not run)}"
        sed -n 's/^\[SKIP\]/   not run:/p' "$scratch/output"
        sed -n '/^\(pageable\|registered\|a page\|committing\)/s/^/   /p' "$scratch/output" # what gpu_cuda found
        passed=$((passed + 1))
        result "$name" ok
    else
        echo "not ok $name ($([ $status -ne 124 ] && echo "status $status" || echo "more than $limit s"))"
        sed 's/^/# /' "$scratch/output"
        failed=$((failed + 1))
        result "$name" failed
    fi
}

# ---- the trainer -------------------------------------------------------------

train() { # PROGRAM NAME OPTION...
    local program=$1 name=$2
    shift 2
    # shellcheck disable=SC2086 # options
    "$program" $model --data LICENSE --steps 6 --hash --json "$scratch/$name.json" "$@" && tail -n 2 "$scratch/$name.json"
}
value() { sed -n "s/^ *\"$2\": \(.*[^,]\),*$/\1/p" "$scratch/$1.json"; } # NAME KEY

# Sums are made in other orders there: equal to nearly four decimals.
losses_near() { # NAME NAME
    paste <(value "$1" losses | tr -d '[] ' | tr , '\n') <(value "$2" losses | tr -d '[] ' | tr , '\n') |
        awk '{ print; d = $1 - $2; if (d > 1e-4 || d < -1e-4) bad = 1; n++ } END { exit bad || n != 6 }'
}
same() { [ -n "$(value "$1" "$3")" ] && [ "$(value "$1" "$3")" = "$(value "$2" "$3")" ]; } # NAME NAME KEY

as_the_cpu() { train "$cpu" cpu && train "$gpt" "$@" && losses_near cpu "$1"; } # NAME OPTION...

with_less() { # NAME PERCENT OPTION...: of the device's memory
    local name=$1 percent=$2 limit
    shift 2
    limit=$(($(value all working_set_bytes) * percent / 100))
    train "$gpt" "$name" --own-products --hbm-limit $limit "$@" && same all "$name" losses && same all "$name" hash &&
        [ "$(value "$name" device_peak_bytes)" -le $limit ] && moved "$name"
}
# Something has to be, but not the same bytes over and over.
moved() { # NAME
    local last
    last=$(value "$1" step_read_bytes | sed 's/.*, \([0-9]*\)\]$/\1/')
    echo "$last bytes to the device in the last step, of $(value "$1" working_set_bytes)"
    [ "$last" -gt 0 ] && [ "$last" -le $((3 * $(value "$1" working_set_bytes))) ]
}

host_limit() { echo $(($(value all working_set_bytes) * $1 / 100)); }
to_the_disk() { with_less disk 40 --host-limit "$(host_limit 60)"; }

gradients() { # OPTION...
    "$gpt" --check-gradients --own-products --data LICENSE "$@"
}

export gpt cpu model scratch
export -f train value losses_near same as_the_cpu with_less moved host_limit to_the_disk gradients

# ---- compute-sanitizer -------------------------------------------------------

sanitized() { # TOOL
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ -n "$sanitizer" ]; then
        check "the trainer under compute-sanitizer's $1" 120 "$sanitizer" --tool "$1" --error-exitcode 9 "$gpt" --layers 1 \
            --width 64 --heads 2 --context 32 --batch 1 --steps 2 --own-products --hbm-limit 8M --data LICENSE
    else
        not_run "the trainer under compute-sanitizer's $1" "it is not installed"
    fi
}

# ---- all -------------------------------------------------------------------

device='simulated'
if [ -z "${SIMULATED:-}" ]; then
    device=$("$BUILD/gpu/bench" --device 2>"$scratch/why")
    case $? in
    0) echo "$device" ;;
    3) absent=$(sed 's/^gpu: //' "$scratch/why") ;;
    *) echo "not ok $BUILD/gpu/bench: $(cat "$scratch/why"); make gpu builds it" && exit 1 ;;
    esac
    check "the NVIDIA tier: conformance, streams, what it costs" 180 "$BUILD/gpu/gpu_cuda"
    check "tensors on the NVIDIA tier" 120 "$BUILD/gpu/gpu_tier"
    check "pointers on the NVIDIA tier that stay" 120 "$BUILD/gpu/gpu_stable"
fi
if [ -x "$gpt" ]; then
    check "gpt_cuda has the losses of gpt on the CPU, by its own product" 120 as_the_cpu all --own-products
    [ -n "${SIMULATED:-}" ] || check "gpt_cuda has the losses of gpt on the CPU, by cuBLAS where it is" 60 as_the_cpu blas
    # shellcheck disable=SC2046 # options or nothing
    check "its gradients agree with difference quotients" 120 gradients $([ -z "${SIMULATED:-}" ] || echo --layers 1 --context 12)
    check "it has the same weights with 60 % of the device's memory" 60 with_less sixty 60
    check "it has the same weights with 30 %" 60 with_less thirty 30
    check "it has the same weights with 40 %, and 60 % in the host's memory" 60 to_the_disk
    if [ -z "${SIMULATED:-}" ]; then
        sanitized memcheck
        sanitized racecheck
    fi
else
    not_run "gpt_cuda" "$gpt was not built, for want of nvcc"
fi

if [ -z "${SIMULATED:-}" ] && [ -z "$absent" ]; then
    file=${RESULTS:-bench/results}/$(date +%F)-$(sed 's/,.*//' <<<"$device" | tr 'A-Z ' 'a-z-')-gpu-check.json
    printf '{"date": "%s", "device": "%s", "passed": %d, "failed": %d, "not_run": %d, "checks": [\n  %s]}\n' "$(date +%F)" \
        "$device" $passed $failed $refused "$json" >"$file" && echo "$file"
fi
echo "$passed passed, $failed failed, $refused not run"
[ $failed -eq 0 ]
