#!/bin/bash
# Includes point one way: command and preload -> core -> include; backends see
# only include. Hardware is named nowhere but in backends.
. "$(dirname "$0")/tap.sh"
not_sanitized layers

# The quoted includes of files, as "FILE: HEADER".
includes() { grep -Ho '^ *# *include *"[^"]*"' "$@" /dev/null | sed 's/: *# *include *"\(.*\)"/: \1/'; }

# Whether all includes of the files lie in the folders listed first.
include_only_from() { # "FOLDER..." FILE...
    local folders=$1 bad=0 file header folder found
    shift
    while IFS=': ' read -r file header; do
        found=
        for folder in $folders; do [ -e "$folder/$header" ] && found=1; done
        [ -n "$found" ] || { echo "$file includes $header"; bad=1; }
    done < <(includes "$@")
    [ $bad -eq 0 ]
}

files() { find "$@" -maxdepth 1 -name '*.[ch]' -type f; }

# Comments may explain hardware, code may not know it. options.c knows the
# names of limits.
without_comments() { "$CC" -fpreprocessed -dD -E -P "$1" 2>/dev/null; }
no_hardware_named() {
    local bad=0 file words
    for file in $(files lib); do
        [ "$file" = lib/options.c ] && continue
        words=$(without_comments "$file" |
            grep -iE '\b(cuda|numa|nvme|hip|musa|maca|corex|ascend|cnrt|opencl|uring)[a-z0-9_]*' |
            grep -v 'OPT_NVME_PATH')
        [ -z "$words" ] || { echo "$file: $words"; bad=1; }
    done
    [ $bad -eq 0 ]
}

vendor_headers() {
    ! grep -En '^ *# *include *[<"](liburing|numa|numaif|cuda|cuda_runtime|cuda_runtime_api|hip/.*|CL/cl)\.h' \
        $(find lib include examples bench -name '*.[ch]' ! -path bench/disk.c ! -path 'bench/loop/*' ! -name '*opencl*.c' ! -path lib/preload/cuda_check.c)
}

# shellcheck disable=SC2046  # file names have no blanks here
{
    check "include/ includes nothing but itself" include_only_from include $(files include)
    check "lib/ includes only lib/ and include/" include_only_from "lib include" $(files lib)
    check "offload/ includes nothing of lib/" include_only_from "offload include" $(files offload)
    check "lib/cli/ includes its own, lib/ and include/" \
        include_only_from "lib/cli lib include" $(files lib/cli)
    check "lib/torch/ includes its own, lib/ and include/" \
        include_only_from "lib/torch lib include" $(files lib/torch)
    check "tests/sim/ includes nothing but its own" include_only_from tests/sim $(files tests/sim)
    check "lib/preload/ includes its own, lib/ and include/" \
        include_only_from "lib/preload lib include" $(files lib/preload)
    check "examples/ use the public header only" include_only_from "examples include" $(files examples)
}
check "vendors' headers only under offload/, and to compare with" vendor_headers
check "lib/ names no hardware" no_hardware_named
