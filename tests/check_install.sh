#!/bin/bash
# Installing, using what was installed from outside this tree, uninstalling.
. "$(dirname "$0")/tap.sh"
not_sanitized install
root=$scratch/root
cat >"$scratch/x.c" <<'END'
#include <stdio.h>
#include <terrace.h>
int main(void)
{
    terrace *m;
    if (terrace_open(&m, "tiers=\"numa:0\"; limit_numa=64M"))
        return puts(terrace_last_error()), 1;
    terrace_close(m);
    return puts(terrace_version()) < 0;
}
END

# With the variables of a make around this one, so that nothing is rebuilt, but
# not its jobs.
case ${MAKEFLAGS-} in
*"-- "*) variables="-- ${MAKEFLAGS#*-- }" ;;
*) variables= ;;
esac
clean_make() {
    env -u MFLAGS -u MAKELEVEL MAKEFLAGS="$variables" \
        make -s CC="$CC" BUILD="$BUILD" PREFIX=/opt/terrace DESTDIR="$root" "$@"
}
installs() { clean_make install && [ -n "$(find "$root" -type f)" ]; }

builds_and_runs() { # PKG_CONFIG_PATH SYSROOT LIBRARY_FOLDER
    (
        cd "$scratch" || exit 1
        export PKG_CONFIG_PATH=$1 PKG_CONFIG_SYSROOT_DIR=$2
        # shellcheck disable=SC2046
        "$CC" x.c $(pkg-config --cflags --libs terrace) -o x &&
            LD_LIBRARY_PATH=$3 ./x && pkg-config --modversion terrace
    )
}
installed_is() { # MODE PATH
    [ "$(stat -Lc %a "$root/opt/terrace/$2")" = "$1" ] || { ls -l "$root/opt/terrace/$2"; false; }
}
command_runs() { env -u LD_LIBRARY_PATH "$root/opt/terrace/bin/terrace" version; }
preloads() { env -u LD_LIBRARY_PATH "$root/opt/terrace/bin/terrace" run -q -- sh -c 'grep "$0" /proc/$$/maps' "$root/opt/terrace/lib/libterrace-preload.so"; }
pages_are_filled() { grep -q TERRACE_LIMIT "$root/opt/terrace/share/man/man1/terrace.1" &&
    grep -q TERRACE_EBUDGET "$root/opt/terrace/share/man/man3/terrace.3"; }
no_build_paths() { ! grep -rl --binary-files=without-match "$PWD" "$root"; }
uninstalls() { clean_make uninstall && [ -z "$(find "$root" ! -type d | tee /dev/stderr)" ]; }

lib=$root/opt/terrace/lib
check "make install" installs
check "the library is installed" installed_is 755 lib/libterrace.so.0
check "the preloaded library is installed" installed_is 755 lib/libterrace-preload.so
check "the installed command preloads it" preloads
check "the headers are installed" installed_is 644 include/terrace.h
check "the backend header is installed" installed_is 644 include/terrace_backend.h
check "the manual is installed and filled" pages_are_filled
check "what was installed does not name the build" no_build_paths
check "the installed command finds its library" command_runs
check "a program builds against the installed library" \
    builds_and_runs "$lib/pkgconfig" "$root" "$lib"
check "a program builds against the build tree" \
    builds_and_runs "$(realpath "$BUILD")/lib/pkgconfig" "" "$(realpath "$BUILD")/lib"
check "make uninstall leaves nothing" uninstalls
