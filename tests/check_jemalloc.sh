#!/bin/bash
# .ci/jemalloc where there is none to be had: what is said, and that the library
# is built without it.
. "$(dirname "$0")/tap.sh"
not_sanitized jemalloc
mkdir "$scratch/bin"
printf '#!/bin/sh\nexit 1\n' >"$scratch/bin/apt-get"
chmod +x "$scratch/bin/apt-get"

without() { [ "$(cat "$scratch/$1/cflags")" = -DTERRACE_WITHOUT_JEMALLOC ] && [ -z "$(tr -d '\n' <"$scratch/$1/libs")" ]; }
get() { PATH=$scratch/bin:$PATH .ci/jemalloc "$scratch/$1" "$1" >"$scratch/said" 2>&1; }

source_cannot_be_had() {
    get library && without library && cat "$scratch/said" &&
        grep -q 'source package cannot be had.*small allocations use built-in size classes' "$scratch/said"
}
source_cannot_be_had_preloaded() {
    get malloc && without malloc && cat "$scratch/said" &&
        grep -q "source package cannot be had.*small blocks are left to the C library's malloc" "$scratch/said"
}
said_each_time() { get library && grep -q 'built-in size classes' "$scratch/said"; }
prefix_without_one() {
    ! .ci/jemalloc "$scratch/own" library "$scratch" >"$scratch/said" && grep -q "JEMALLOC_PREFIX=$scratch has no" "$scratch/said"
}
ones_own() {
    grep -q isystem "$BUILD/jemalloc/cflags" || return 0 # none was to be had here, either
    .ci/jemalloc "$scratch/mine" library "$PWD/$BUILD/jemalloc" >"$scratch/said" &&
        grep -q -e "-isystem $PWD/$BUILD/jemalloc/include" "$scratch/mine/cflags"
}

# All of the library, quickly; its command says what serves small tensors.
builds_without() {
    local so=$scratch/build/lib/libterrace.so.0
    make -j2 BUILD="$scratch/build" JEMALLOC="$scratch/library" CFLAGS=-O0 "$so" "$scratch/build/bin/terrace" >/dev/null &&
        TERRACE_TIERS=numa:0 "$scratch/build/bin/terrace" info | tee "$scratch/said" &&
        grep -q 'built-in size classes (jemalloc was not available when this was built)' "$scratch/said" &&
        ! nm -D "$so" | grep -i mallctl
}
documented() { grep -q 'where that cannot be had,$' README.md && grep -q '^built-in size classes take its place' README.md; }

check "where its source cannot be had it says what is lost" source_cannot_be_had
check "also for the preloaded library" source_cannot_be_had_preloaded
check "and says it at each build" said_each_time
check "a prefix without a usable one is an error" prefix_without_one
check "one's own is taken" ones_own
check "the library is built and works without one" builds_without
check "the fallback is documented" documented
