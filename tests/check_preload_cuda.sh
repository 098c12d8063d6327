#!/bin/bash
# Programs that use the CUDA driver or runtime and know nothing of terrace, with
# libterrace-preload.so, on the simulated driver: 80 MiB of memory, of which they may
# have 32 MiB and ask for twice as much. However they get at the driver.
. "$(dirname "$0")/tap.sh"
not_sanitized preload_cuda
[[ $BUILD = /* ]] || BUILD=$PWD/$BUILD
library=$BUILD/lib/libterrace-preload.so sim=$BUILD/tests/sim cuda=${CUDA:-/usr/local/cuda}
export TERRACE_NVME_PATH=$BUILD/spill-$$
mkdir -p "$TERRACE_NVME_PATH"
trap 'rm -rf "$TERRACE_NVME_PATH"; tap_end' EXIT

build() { # NAME SOURCE FLAG...
    "$CC" -D_GNU_SOURCE -std=gnu11 -O1 -g -Wall -Wextra -Werror -pthread "tests/preload/$2" -o "$scratch/$1" "${@:3}"
}
job() { # PROGRAM ARGUMENT [NAME=VALUE...]
    env SIM_CUDA_CAPACITY=80M TERRACE_LIMIT_CUDA=32M TERRACE_LIMIT_HOST=160M LD_LIBRARY_PATH="$sim:$cuda/lib64" "${@:3}" \
        LD_PRELOAD="$library" timeout -k 5 100 "$scratch/$1" "$2"
}
said() { # PATTERN PROGRAM ARGUMENT [NAME=VALUE...]: one line, and the program is well
    job "${@:2}" >"$scratch/out" 2>"$scratch/err" || { cat "$scratch/out" "$scratch/err"; return 1; }
    cat "$scratch/out" "$scratch/err"
    [ "$(grep -c "$1" "$scratch/err")" = 1 ]
}
silent() { # PROGRAM ARGUMENT [NAME=VALUE...]
    job "$@" 2>"$scratch/err" && ! [ -s "$scratch/err" ] || { cat "$scratch/err"; false; }
}

check "builds" eval 'build linked cuda.c -DREACH=0 -Itests/sim "$sim/libcuda.so.1" &&
    build searched cuda.c -DREACH=1 -Itests/sim -ldl && build old_table cuda.c -DREACH=2 -Itests/sim -ldl &&
    build table cuda.c -DREACH=3 -Itests/sim -ldl && build behind.so behind.c -shared -fPIC && mkdir "$scratch/nccl" &&
    build forks cuda_forks.c -ldl && build nccl/libnccl.so.2 nccl.c -shared -fPIC -Wl,-soname,libnccl.so.2'

# ---- ways to the driver -----------------------------------------------------------

for way in linked searched old_table table; do
    check "$way: what stands where" job $way see
    check "$way: twice the memory there is" job $way memory
    check "$way: stream-ordered memory" job $way ordered
done
alone() { ! LD_LIBRARY_PATH=$sim SIM_CUDA_CAPACITY=80M "$scratch/linked" see; }
check "without terrace it is the driver that stands there" alone

# ---- what holds ---------------------------------------------------------------------

for what in pitch kernels held_up freed heat threads told captured; do
    check "memory: $what" silent table $what
done
check "memory: registered" silent table registered TERRACE_LIMIT_HOST=48M
check "memory: two devices" silent table peers SIM_CUDA_DEVICES=2
check "memory: NCCL's" silent table nccl LD_LIBRARY_PATH="$sim:$scratch/nccl"
check "memory: where nothing fits any more, the driver's" silent table small
expanded() { job table info TERRACE_REPORT_CAPACITY=expanded TERRACE_LIMIT_NUMA=96M | grep -qx '128 of 128 MiB'; }
truth() { job table info | grep -qx '[0-9]* of 80 MiB'; }
check "the driver tells the truth" truth
check "unless asked for more" expanded
stays() { [ "$(job table shared SIM_CUDA_IPC_MAPPED=1)" = 0 ]; }
check "what is shared with another process stays" stays
refused() { said 'does not share memory of 4194304 bytes' table shared && [ "$(cat "$scratch/out")" = 1 ]; }
check "where the driver does not share it, a line says so" refused

# ---- what is left alone ------------------------------------------------------------

check "a driver without virtual memory" said "device 0 is the driver's" table untouched SIM_CUDA_VMM=0 TERRACE_LOG=info
check "of which nothing is said unless asked" silent table untouched SIM_CUDA_VMM=0
forks() {
    SIM_CUDA_CAPACITY=80M TERRACE_LIMIT_HOST=160M LD_LIBRARY_PATH=$sim LD_PRELOAD=$library timeout 60 "$scratch/forks"
}
check "a child is the first to use the driver" forks
check "a device that is left out" said "device 0 is the driver's" table untouched TERRACE_TIERS=numa,nvme TERRACE_LOG=info
check "a setting that cannot be used" said 'TERRACE_LIMIT_CUDA=x is not accepted' table untouched TERRACE_LIMIT_CUDA=x
check "a capacity that cannot be used" said 'TERRACE_REPORT_CAPACITY=much' table untouched TERRACE_REPORT_CAPACITY=much
behind() {
    LD_PRELOAD="$library $scratch/behind.so" python3 -c 'import os, sys; sys.exit(os.getppid() <= 0)' &&
        LD_PRELOAD="$scratch/behind.so $library" python3 -c 'import os, sys; sys.exit(os.getppid() <= 0)'
}
check "who looks behind himself finds what is there" behind
nothing() { LD_PRELOAD=$library python3 -c 'import ctypes; ctypes.CDLL(None).cuMemAlloc_v2' 2>&1 | grep -q 'undefined symbol'; }
check "no entry is there without a driver" nothing

# ---- the runtime --------------------------------------------------------------------

if ! [ -e "$cuda/include/cuda_runtime_api.h" ]; then
    echo "ok the CUDA runtime # SKIP not run: there is no $cuda/include/cuda_runtime_api.h"
    exit 0
fi
# Those of its lookups that concern memory. What it does then it does not do on a
# simulated driver, which it refuses.
met() { # PROGRAM
    local entry missed=
    job "$1" "" TERRACE_LOG=debug >"$scratch/out" 2>&1 || { cat "$scratch/out"; return 1; }
    for entry in cuMemAlloc_v2 cuMemAllocPitch_v2 cuMemFree_v2 cuMemAllocAsync cuMemAllocFromPoolAsync cuMemFreeAsync \
        cuMemGetInfo_v2 cuPointerGetAttributes cuIpcGetMemHandle cuMemHostRegister_v2 cuMemHostUnregister \
        cuMemcpyHtoD_v2 cuMemcpyDtoHAsync_v2 cuMemsetD8Async cuLaunchKernel cuStreamSynchronize cuCtxSynchronize \
        cuEventSynchronize cuStreamBeginCapture_v2 cuStreamEndCapture cuStreamDestroy_v2 cuGetProcAddress \
        cuGetProcAddress_v2; do
        grep -q "^terrace: $entry stands here" "$scratch/out" || missed+=" $entry"
    done
    echo "missed:$missed"
    [ -z "$missed" ]
}
for way in shared static loaded; do
    case $way in
    shared) flags=(-lcudart) file=libcudart.so ;;
    static) flags=(-lcudart_static -ldl -lrt) file=libcudart_static.a ;;
    loaded) flags=(-DLOADED="\"libcudart.so.13\"" -ldl) file=libcudart.so.13 ;;
    esac
    if ! [ -e "$cuda/lib64/$file" ]; then
        echo "ok runtime $way # SKIP not run: there is no $cuda/lib64/$file"
        continue
    fi
    check "runtime $way: builds" build "rt_$way" cudart.c -isystem "$cuda/include" -L"$cuda/lib64" "${flags[@]}"
    check "runtime $way: finds terrace in place of the driver" met "rt_$way"
done
