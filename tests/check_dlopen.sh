#!/bin/bash
# The library loaded at run time, as interpreters and plugins do, however late;
# and the loading program's malloc, which is none of the library's business.
. "$(dirname "$0")/tap.sh"
not_sanitized dlopen
library=$BUILD/lib/libterrace.so

python_opens() {
    TERRACE_TIERS=numa:0 python3 - "$library" <<'END2'
import ctypes, sys
libc = ctypes.CDLL(None)
library = ctypes.CDLL(sys.argv[1])
library.terrace_last_error.restype = ctypes.c_char_p
manager, tensor = ctypes.c_void_p(), ctypes.c_void_p()
def must(result):
    if result:
        sys.exit(library.terrace_last_error().decode())
must(library.terrace_open(ctypes.byref(manager), None))
for n in range(1000):
    must(library.terrace_tensor_create(manager, ctypes.c_size_t(1 + n * 100), None, ctypes.byref(tensor)))
library.terrace_close(manager)
assert not hasattr(libc, "mallctl") and not hasattr(library, "mallctl")
END2
}

# An interpreter as it is, the library by its name: 64 MiB of tensors and as much
# address-stable memory, in a budget of 16 MiB.
python_spills() {
    LD_LIBRARY_PATH=$BUILD/lib python3 - "$scratch" <<'END2'
import ctypes, random, sys
terrace = ctypes.CDLL("libterrace.so.0")
terrace.terrace_last_error.restype = ctypes.c_char_p
terrace.terrace_malloc.restype = ctypes.c_void_p
terrace.terrace_malloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_void_p]
MIB, READ, OVERWRITE = 1 << 20, 1, 4
manager, host = ctypes.c_void_p(), ctypes.c_int32()
def must(result):
    if result:
        sys.exit(terrace.terrace_last_error().decode())
conf = "tiers=numa:0,nvme:0;limit_numa=16M;nvme_path=%s;report=%s/report" % (sys.argv[1], sys.argv[1])
must(terrace.terrace_open(ctypes.byref(manager), conf.encode()))
must(terrace.terrace_tier_find(manager, b"host", ctypes.byref(host)))
def block(i):
    return random.Random(i).randbytes(MIB)
def use(tensor, mode, function):
    address = ctypes.c_void_p()
    must(terrace.terrace_acquire(tensor, host, mode, None, ctypes.byref(address), None))
    function(address.value)
    must(terrace.terrace_release(tensor, address, None))
def same(address, i):
    assert ctypes.string_at(address, MIB) == block(i), "block %d is another" % i
tensors = [ctypes.c_void_p() for i in range(64)]
for i, tensor in enumerate(tensors):
    must(terrace.terrace_tensor_create(manager, ctypes.c_size_t(MIB), None, ctypes.byref(tensor)))
    use(tensor, OVERWRITE, lambda address: ctypes.memmove(address, block(i), MIB))
stable = terrace.terrace_malloc(manager, 64 * MIB, host, None)
if not stable:
    sys.exit(terrace.terrace_last_error().decode())
for i in range(64):
    ctypes.memmove(stable + i * MIB, block(100 + i), MIB)
for i, tensor in enumerate(tensors):
    use(tensor, READ, lambda address: same(address, i))
    same(stable + i * MIB, 100 + i)
terrace.terrace_close(manager)
END2
    local result=$?
    cat "$scratch/report"
    [ $result -eq 0 ] && grep -Eq 'numa:0 .*peak (1[0-6]|[0-9])\.[0-9] MiB' "$scratch/report" &&
        grep -Eq 'nvme:0 .*in [0-9.]+ [MG]iB, out [0-9.]+ [MG]iB' "$scratch/report"
}

# One library whose static thread-local storage fills the rest of the room that
# the loader has for more, under many names.
static_tls() {
    echo '__thread char local[96]; char *address(void) { return local; }' >"$scratch/tls.c"
    "$CC" -shared -fPIC -ftls-model=initial-exec "$scratch/tls.c" -o "$scratch/tls.so" || return
    local i
    for i in {1..100}; do cp "$scratch/tls.so" "$scratch/tls-$i.so" || return; done
}
late() { "$BUILD/tests/prog_late_dlopen" "$library"; }
latest() { static_tls && "$BUILD/tests/prog_late_dlopen" "$library" "$scratch"/tls-*.so; }
linked() { ! readelf -d "$BUILD/tests/prog_late_dlopen" | grep 'NEEDED.*terrace'; }

if command -v python3 >/dev/null; then
    check "Python loads it with ctypes" python_opens
    check "Python allocates, writes, spills and reads" python_spills
else
    echo "ok Python loads it with ctypes # SKIP no python3 here"
    echo "ok Python allocates, writes, spills and reads # SKIP no python3 here"
fi
check "the program that loads it late does not link it" linked
check "a program loads, uses and unloads it, again and again" late
check "also where no static thread-local storage is left" latest
