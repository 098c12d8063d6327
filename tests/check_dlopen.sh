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
else
    echo "ok Python loads it with ctypes # SKIP no python3 here"
fi
check "the program that loads it late does not link it" linked
check "a program loads, uses and unloads it, again and again" late
check "also where no static thread-local storage is left" latest
