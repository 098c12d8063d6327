#!/bin/bash
# What the command says of NVIDIA devices: on a simulated driver, with none, and
# with libraries that are no driver.
. "$(dirname "$0")/tap.sh"
not_sanitized cuda
terrace=$BUILD/bin/terrace
sim=$PWD/$BUILD/tests/sim
export TERRACE_NVME_PATH=$PWD/$BUILD/spill-$$ TERRACE_LIMIT_NUMA=256M
mkdir -p "$TERRACE_NVME_PATH" "$scratch/empty" "$scratch/text"
trap 'rm -rf "$TERRACE_NVME_PATH"; tap_end' EXIT
"$CC" -shared -x c -Wl,-soname,libcuda.so.1 -o "$scratch/empty/libcuda.so.1" - <<<'int nothing;'
echo "no library" >"$scratch/text/libcuda.so.1"

# Whether `terrace info` with a folder of libraries, and settings, matches.
info() { # FOLDER PATTERN [NAME=VALUE...] [-- ARGUMENT...]
    local folder=$1 pattern=$2 settings=()
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do settings+=("$1"); shift; done
    shift
    env "${settings[@]}" LD_LIBRARY_PATH="$folder" "$terrace" info "$@" >"$scratch/out" 2>&1
    cat "$scratch/out"
    echo "pattern $pattern"
    grep -Eq -- "$pattern" "$scratch/out"
}

check "a device is a tier" info "$sim" '^cuda:0$'
check "there is one for each" info "$sim" '^cuda:1$' SIM_CUDA_DEVICES=2
check "it is first" bash -c "LD_LIBRARY_PATH='$sim' '$terrace' info | sed -n 3p | grep -q '^cuda:0'"
check "its class" info "$sim" 'class +device'
check "its model, place and versions" info "$sim" 'location +.+, PCI [0-9a-f:.]+, CUDA 13\.0'
check "its budget and why" info "$sim" 'budget +[0-9.]+ MiB \(.+ GiB are free, less .+ for other users\)'
check "a limit" info "$sim" 'budget +64\.0 MiB \(TERRACE_LIMIT_CUDA ' TERRACE_LIMIT_CUDA=64M
check "how memory is managed" info "$sim" 'engine +CUDA driver API \(virtual memory management, by granules of 2 MiB'
check "without virtual memory" info "$sim" 'engine .*all memory is allocated at once' SIM_CUDA_VMM=0
check "host memory that helps" info "$sim" 'engine .*what does not fit comes from node 0, at most 0\.1 GiB' \
    TERRACE_CUDA_HOST_MEMORY=64M
check "bandwidths" info "$sim" 'bandwidth +write [0-9.]+ GB/s, read [0-9.]+ GB/s' SIM_CUDA_CAPACITY=2G \
    TERRACE_TIERS=cuda:0,numa:0 -- --measure
check "no device" info "$sim" 'absent +the NVIDIA driver has no device to use: CUDA_ERROR_NO_DEVICE' SIM_CUDA_DEVICES=0
check "a library without functions" info "$scratch/empty" 'absent +libcuda\.so\.1 has no function cuInit; a driver of'
check "a file that is no library" info "$scratch/text" 'absent +no NVIDIA driver: .*(file too short|invalid ELF header)'
check "a tier that is absent says why" info "$scratch/text" \
    "there is no tier 'cuda:0' here; .*cuda: no NVIDIA driver: " TERRACE_TIERS=cuda:0,numa:0
if ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1 '; then
    check "no driver" info "$scratch" 'absent +no NVIDIA driver: libcuda\.so\.1: cannot open'
fi

json_valid() {
    LD_LIBRARY_PATH=$1 "$terrace" info --json | python3 -c '
import json, sys
info = json.load(sys.stdin)
kinds = [tier["kind"] for tier in info["tiers"]]
assert ("cuda" in kinds) != ("cuda: " in info["absent"]), info'
}
if command -v python3 >/dev/null; then
    check "JSON with a device" json_valid "$sim"
    check "JSON without one" json_valid "$scratch/empty"
fi
