#!/bin/bash
# What the command says of accelerators behind vendors' runtime libraries: on simulated
# runtimes, with none, with libraries that lack what is needed; and whether AMD's own
# library, where that is installed, has all functions.
. "$(dirname "$0")/tap.sh"
not_sanitized runtimes
terrace=$BUILD/bin/terrace
sim=$PWD/$BUILD/tests/sim
export TERRACE_NVME_PATH=$PWD/$BUILD/spill-$$ TERRACE_LIMIT_NUMA=256M
mkdir -p "$TERRACE_NVME_PATH"
trap 'rm -rf "$TERRACE_NVME_PATH"; tap_end' EXIT
unset COREX_HOME MACA_PATH MUSA_HOME ASCEND_HOME_PATH NEUWARE_HOME

# Whether `terrace info` with a folder of libraries, and settings, matches.
info() { # FOLDER PATTERN [NAME=VALUE...]
    local folder=$1 pattern=$2
    shift 2
    env "$@" COREX_HOME="$folder" LD_LIBRARY_PATH="$folder" "$terrace" info >"$scratch/out" 2>&1
    cat "$scratch/out"
    echo "pattern $pattern"
    grep -Eq -- "$pattern" "$scratch/out"
}

# A library of a kind's simulated runtime under the same name in another folder, less
# one function: as an older version may be.
without() { # FOLDER LIBRARY SOURCE FUNCTION
    local objects
    objects=$(find "$BUILD/obj/tests/sim" -name '*.o' ! -name 'cuda_*' ! -name gpt_cuda.o \
        ! -name hip.o ! -name musa.o ! -name maca.o ! -name corex.o ! -name ascend.o ! -name cnrt.o)
    mkdir -p "$1/$(dirname "$2")"
    # shellcheck disable=SC2086
    "$CC" -shared -pthread -Wl,-soname,"$(basename "$2")" -Wl,-Bsymbolic -Wl,-z,nodelete \
        -Wl,--version-script=<(echo "{ global: *; local: $4; };") -o "$1/$2" "$BUILD/obj/tests/sim/$3.o" $objects
}

# Whether the machine has one of its own, under whichever version. One in a folder is
# looked for nowhere else.
installed() { ldconfig -p 2>/dev/null | grep -qF "${1%.so*}.so"; }

# WAIT and REGISTER are functions without which it cannot, and can, be used; the second
# may be "-". LOST is an error, PLACE what is said of the place.
kind() { # KIND API LIBRARY ABSENT FIRST WAIT REGISTER LOST LOST_NAME MODEL_AND_PLACE
    local kind=$1 api=$2 library=$3 absent=$4 first=$5 wait=$6 register=$7 lost=$8 lost_name=$9 model=${10}
    local limit=TERRACE_LIMIT_${1^^} folder=$sim/$1 memory='host memory is registered'
    [ "$register" = - ] && memory='it does not register host memory'
    local with="TERRACE_TIERS=$kind:0,numa:0" empty=$scratch/$kind-empty old=$scratch/$kind-old lean=$scratch/$kind-lean
    mkdir -p "$empty/$(dirname "$library")"
    "$CC" -shared -x c -Wl,-soname,"$(basename "$library")" -o "$empty/$library" - <<<'int nothing;'
    check "$kind: a device is a tier" info "$folder" "^$kind:0\$" "$with"
    check "$kind: its class" info "$folder" 'class +device' "TERRACE_TIERS=$kind:0"
    check "$kind: its model and place" info "$folder" "location +$model" "$with"
    check "$kind: its budget and why" info "$folder" 'budget +[0-9.]+ MiB \(.+ GiB are free, less .+ for other users\)' "$with"
    check "$kind: a limit" info "$folder" "budget +64\.0 MiB \($limit " "$with" "$limit=64M"
    check "$kind: its runtime" info "$folder" "engine +$api runtime \(.*$(basename "$library"); (all|virtual) memory.*$memory" "$with"
    check "$kind: no device" info "$folder" "$kind: the $api runtime has no device to use: [a-zA-Z_]+(NoDevice|NO_DEVICE)" "$with" "SIM_${kind^^}_DEVICES=0"
    installed "$library" ||
        check "$kind: no library" info "$scratch" "there is no tier '$kind:0' here; .*$kind: no .+ runtime: $absent" "$with"
    check "$kind: a library without functions" info "$empty" "$kind: .*$(basename "$library") has no function $first; a newer $api runtime" "$with"
    without "$old" "$library" "$kind" "$wait"
    check "$kind: an old runtime" info "$old" "$kind: .*has no function $wait; a newer $api runtime is needed" "$with"
    check "$kind: other tiers work" info "$old" '^numa:0$'
    if [ "$register" != - ]; then
        without "$lean" "$library" "$kind" "$register"
        check "$kind: without a function that need not be" info "$lean" "engine +$api runtime \(.*it does not register host memory" "$with"
    fi
    check "$kind: a device that is full" info "$folder" "$kind:0 .*: trying the device out; .*; lower $limit" "$with" "SIM_${kind^^}_CAPACITY=4K"
    check "$kind: a device that has vanished" info "$folder" "$kind:0.*: .*; TERRACE_TIERS can leave it out: $lost_name.*of no more use" \
        "$with" "SIM_${kind^^}_LOST=$lost"
    case $kind in musa | maca | corex) # the others are asked for only where the system has a device
        check "$kind: is left out when nobody named it" info "$folder" "absent +$kind:0 .* stays off: tried out" "SIM_${kind^^}_CORRUPT=1"
        check "$kind: other tiers work then" info "$folder" '^numa:0$' "SIM_${kind^^}_CORRUPT=1" ;;
    esac
    check "$kind: a device that gives wrong bytes" info "$folder" "$kind:0 .* stays off: tried out, the device gave" "$with" "SIM_${kind^^}_CORRUPT=1"
}

kind hip HIP libamdhip64.so.6 'libamdhip64\.so\.7: cannot open' hipGetDeviceCount hipStreamWaitEvent hipHostRegister \
    700 hipErrorIllegalAddress 'Simulated AMD accelerator 0, PCI 0000:60:00.0'
kind musa MUSA libmusart.so 'libmusart\.so: cannot open' musaGetDeviceCount musaStreamWaitEvent musaHostRegister \
    700 musaErrorIllegalAddress 'Simulated MTT 0, PCI 0000:60:00.0'
kind maca MACA libmcruntime.so 'libmcruntime\.so: cannot open' mcGetDeviceCount mcStreamWaitEvent mcHostRegister \
    700 mcErrorIllegalAddress 'Simulated MXC 0, PCI 0000:60:00.0'
kind corex CoreX lib64/libcudart.so '.*lib64/libcudart\.so: cannot open' cudaGetDeviceCount cudaStreamWaitEvent \
    cudaHostRegister 700 cudaErrorIllegalAddress 'Iluvatar simulated 0, PCI 0000:60:00.0'
kind ascend ACL libascendcl.so 'libascendcl\.so: cannot open' aclInit aclrtStreamWaitEvent aclrtHostRegisterV2 \
    507015 ACL_ERROR_RT_AICORE_EXCEPTION 'Simulated Ascend, PCI 0000:60:00.0'
kind cnrt CNRT libcnrt.so 'libcnrt\.so: cannot open' cnrtGetDeviceCount cnrtQueueWaitNotifier - \
    100132 cnrtErrorKernelTrap 'Simulated MLU 0'

# ---- AMD's own library --------------------------------------------------------------

resolve() { # LIBRARY
    "$CC" -D_GNU_SOURCE -Iinclude -Ioffload -x c -o "$scratch/resolve" - -ldl <<'C' && "$scratch/resolve" "$1"
#include <dlfcn.h>
#include <stdio.h>
#include "cudalike.h"
int main(int argc, char **argv)
{
    void *library = dlopen(argv[argc - 1], RTLD_NOW);
    int missing = !library;
    if (!library)
        return puts(dlerror()), 1;
#define NAME(member, name, result, parameters) \
    if (!dlsym(library, "hip" #name))          \
        missing = 1, puts("hip" #name " is not there");
    CUDALIKE_FUNCTIONS(NAME, NAME)
    return missing;
}
C
}

if ldconfig -p 2>/dev/null | grep -q 'libamdhip64\.so\.5 '; then
    check "hip: AMD's library has all functions" resolve libamdhip64.so.5
    [ -e /dev/kfd ] || check "hip: AMD's library without a device" info "$scratch" \
        'hip: the HIP runtime has no device to use: hipErrorNoDevice' TERRACE_TIERS=hip:0
else
    echo "ok hip: AMD's library has all functions # SKIP libamdhip64 is not installed"
fi
[ -e /dev/kfd ] || [ -e /dev/mkfd ] ||
    check "hip: not even loaded where the system has no such device" info "$sim/hip" 'absent +there is no AMD or Hygon device: no /dev/kfd'
