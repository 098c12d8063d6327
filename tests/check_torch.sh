#!/bin/bash
# PyTorch's door without torch: called as torch calls it, on a simulated driver, and what
# it raises where there is no memory.
. "$(dirname "$0")/tap.sh"
not_sanitized torch
library=$PWD/$BUILD/lib/libterrace.so
[[ $BUILD = /* ]] && library=$BUILD/lib/libterrace.so
sim=$PWD/$BUILD/tests/sim
[[ $BUILD = /* ]] && sim=$BUILD/tests/sim
export TERRACE_TIERS=cuda:0,numa:0,nvme:0 TERRACE_LIMIT_CUDA=12M TERRACE_LIMIT_NUMA=64M
export TERRACE_NVME_PATH=$PWD/$BUILD/spill-$$
[[ $BUILD = /* ]] && TERRACE_NVME_PATH=$BUILD/spill-$$
mkdir -p "$TERRACE_NVME_PATH"
trap 'rm -rf "$TERRACE_NVME_PATH"; tap_end' EXIT

with_driver() { LD_LIBRARY_PATH=$sim "$@"; }
two_streams() { with_driver "$BUILD/tests/prog_torch" "$library"; }
reports() {
    TERRACE_REPORT=$scratch/report two_streams && cat "$scratch/report" &&
        grep -Eq 'cuda:0 .*peak (1[0-2]|[0-9])\.[0-9] MiB' "$scratch/report"
}
# As torch does: the library by its path, functions as addresses.
python() {
    with_driver python3 - "$library" <<'END'
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.terrace_last_error.restype = ctypes.c_char_p
def function(name, result, *arguments):
    return ctypes.CFUNCTYPE(result, *arguments)(ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
P, N, I, D = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_double
alloc = function("terrace_torch_alloc", P, N, I, P)
free = function("terrace_torch_free", None, P, N, I, P)
function("terrace_torch_init", None, I)(1)
fraction = function("terrace_torch_memory_fraction", None, D, I)
blocks = [(alloc(n, 0, None), n) for n in (1, 1000, 1 << 20, 3 << 20)]
assert all(p and p % 512 == 0 for p, n in blocks), library.terrace_last_error()
size = N()
assert function("terrace_torch_base_alloc", P, P, P)(blocks[2][0] + 5000, ctypes.byref(size)) == blocks[2][0]
assert size.value == 1 << 20
fraction(0.5, 0)
assert not alloc(4 << 20, 0, None) and b"memory_fraction" in library.terrace_last_error()
fraction(1.0, 0)
assert not alloc(1 << 30, 0, None) and b"TERRACE_LIMIT_CUDA" in library.terrace_last_error()
for p, n in blocks:
    free(p, n, 0, None)
function("terrace_torch_reset", None)()
p = alloc(11 << 20, 0, None)
assert p, library.terrace_last_error()
END
}
shared_with_preloaded() {
    local preload=${library%.so}-preload.so
    LD_PRELOAD=$preload python 2>"$scratch/err"
    local result=$?
    cat "$scratch/err"
    [ $result = 0 ] && [ ! -s "$scratch/err" ]
}

raises() { # PATTERN [-D...]: with a libc10 built so, or none
    local pattern=$1 c10=
    shift
    if [ $# -gt 0 ]; then
        c10=$scratch/libc10.so
        g++ -O1 -fPIC -shared -fvisibility=hidden -DLIBRARY "$@" tests/torch_raise.cc -o "$c10" || return
    fi
    g++ -O1 tests/torch_raise.cc -o "$scratch/raise" -ldl 2>&1 || return
    with_driver "$scratch/raise" "$library" ${c10:+"$c10"} >"$scratch/out" 2>&1
    local result=$?
    cat "$scratch/out"
    [ $result = 0 ] && [ "$(grep -Ec "$pattern" "$scratch/out")" = 3 ]
}
sentence="CUDA out of memory\. .*12\.0 MiB.*TERRACE_LIMIT_CUDA"
names_exist() {
    local name missing=0
    for name in $(grep -o 'terrace_torch_[a-z_]*' examples/torch_allocator.py | sort -u); do
        nm -D --defined-only "$library" | grep -q " $name@@" || { echo "$name"; missing=1; }
    done
    [ $missing = 0 ] && python3 -m py_compile examples/torch_allocator.py && rm -rf examples/__pycache__
}

check "loaded at run time, two streams" two_streams
check "a report at the end, and the budget kept" reports
check "Python, with ctypes" python
check "beside a preloaded library" shared_with_preloaded
check "without torch: NULL" raises '^nothing$'
check "torch.OutOfMemoryError" raises "^OutOfMemoryError $sentence" -DNEW
check "torch.OutOfMemoryError, of builds with the old std::string" \
    raises "^OutOfMemoryError $sentence" -D_GLIBCXX_USE_CXX11_ABI=0
check "before torch 1.13: what TORCH_CHECK raises" raises "^exception $sentence" -DOLD
check "the example names what there is" names_exist
