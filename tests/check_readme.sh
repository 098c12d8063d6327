#!/bin/bash
# README.md and the manual agree with the tables they are made from.
. "$(dirname "$0")/tap.sh"
not_sanitized readme
terrace=$BUILD/bin/terrace

up_to_date() { "$terrace" help --fill readme lib/*.c lib/torch/*.c offload/*.c <README.md | diff README.md -; }
# Every row of the tables, in a text.
settings_in() {
    local name missing=0
    for name in $(sed -n 's/^OPTION([A-Z_]*, "\([A-Z_]*\)".*/\1/p' lib/options.def) 'LIMIT_<KIND>'; do
        grep -q "TERRACE_$name" "$1" || { echo "$name is missing"; missing=1; }
    done
    [ $missing -eq 0 ]
}
errors_in() {
    local name missing=0
    for name in $(sed -n 's/^    X(\(E[A-Z]*\),.*/\1/p' include/terrace.h); do
        grep -q "TERRACE_$name" "$1" || { echo "$name is missing"; missing=1; }
    done
    [ $missing -eq 0 ]
}
# The program in README.md, as a reader would copy it.
program_compiles() {
    sed -n '/^```c$/,/^```$/{/^```/!p}' README.md >"$scratch/program.c"
    [ -s "$scratch/program.c" ] &&
        "$CC" -Wall -Wextra -Werror -Iinclude "$scratch/program.c" -o "$scratch/program" \
            -L"$BUILD/lib" -lterrace -Wl,-rpath,"$PWD/$BUILD/lib" && "$scratch/program"
}
paths_exist() {
    local path missing=0
    for path in $(awk -F'|' '/^## /{map = /Where things are/} map && /^\| `/{print $2}' README.md | tr -d '\140,'); do
        [ -e "$path" ] || { echo "$path is not there"; missing=1; }
    done
    [ $missing -eq 0 ]
}
pages_format() { ! groff -man -Tutf8 -ww -z "$BUILD"/man/terrace.[13] 2>&1 | grep .; }

check "README.md is up to date (make docs)" up_to_date
check "README.md names every setting" settings_in README.md
check "README.md names every error" errors_in README.md
check "terrace(1) names every setting" settings_in "$BUILD/man/terrace.1"
check "terrace(3) names every setting" settings_in "$BUILD/man/terrace.3"
check "terrace(3) names every error" errors_in "$BUILD/man/terrace.3"
check "the program in README.md compiles and runs" program_compiles
check "the files in README.md's map exist" paths_exist
if command -v groff >/dev/null; then
    check "the manual pages are formatted without warnings" pages_format
fi
