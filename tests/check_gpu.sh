#!/bin/bash
# The trainer and the measurements for an NVIDIA device, as far as that goes without
# one: what they say where there is none, and all of it on the simulated driver.
. "$(dirname "$0")/tap.sh"
not_sanitized gpu
gpt=$BUILD/examples/gpt_cuda

# One sentence, and a status of its own; however many devices there are.
no_device() {
    CUDA_VISIBLE_DEVICES='' "$@" >"$scratch/out" 2>"$scratch/err"
    local status=$?
    cat "$scratch/out" "$scratch/err"
    [ $status -eq 3 ] && [ ! -s "$scratch/out" ] && [ "$(wc -l <"$scratch/err")" -eq 1 ]
}
helps() { "$gpt" --help | grep -q -- '--hbm-limit SIZE'; }
refused() { # PATTERN OPTION...
    local pattern=$1 status
    shift
    "$gpt" "$@" 2>"$scratch/err"
    status=$?
    cat "$scratch/err"
    [ $status -eq 2 ] && grep -q -- "$pattern" "$scratch/err"
}

if [ -x "$gpt" ]; then
    check "gpt_cuda --help" helps
    check "gpt_cuda refuses what it does not know" refused "there is no option '--hbm'; gpt_cuda --help" --hbm
    check "gpt_cuda refuses a limit that is none" refused "must be a plain SIZE" --hbm-limit 'a;b'
    check "gpt_cuda without a device" no_device "$gpt" --data LICENSE
else
    echo "ok gpt_cuda # SKIP it is not built, for want of nvcc"
fi
check "bench/gpu without a device" no_device "$BUILD/bench/gpu"

# As on a machine to which `make gpu` was carried, which has no device.
mkdir -p "$scratch/build/gpu"
ln -s "$(realpath "$BUILD/bench/gpu")" "$scratch/build/gpu/bench"
not_run() { # SCRIPT
    BUILD=$scratch/build CUDA_VISIBLE_DEVICES='' "$1" >"$scratch/out" 2>&1 || return 1
    cat "$scratch/out"
    grep -q '^not run: .*NVIDIA driver\|: not run: .*NVIDIA driver' "$scratch/out" && ! grep -q '^ok\|^not ok\|FAILED' "$scratch/out"
}
check "make check-gpu without a device runs nothing, and says why" not_run tests/gpu.sh
check "make bench-gpu without a device runs nothing, and says why" not_run bench/gpu.sh

simulated() {
    local stored
    stored=$(ls bench/results)
    SIMULATED=1 RUNS=1 bench/gpu.sh >"$scratch/out" 2>&1 || { cat "$scratch/out" && return 1; }
    cat "$scratch/out"
    grep -q 'SIMULATED' "$scratch/out" && grep -q '^simulated: nothing is stored' "$scratch/out" &&
        grep -q ' 25 % of that .* times; bound .* of it reached' "$scratch/out" && [ "$stored" = "$(ls bench/results)" ]
}
check "make bench-gpu on the simulated driver" simulated

SIMULATED=1 tests/gpu.sh >"$scratch/out" 2>&1 || tap_failed=1
grep '^ok \|^not ok \|^#' "$scratch/out"
