#!/bin/bash
# Each header compiles alone: the public ones as C11 and C++17, the others as
# the C the library is written in.
. "$(dirname "$0")/tap.sh"
not_sanitized headers

alone() { # HEADER COMPILER OPTION...
    local header=$1
    shift
    echo "#include \"$header\"" | "$@" -fsyntax-only -Wall -Wextra -Werror -Iinclude -
}

for header in include/*.h; do
    name=${header#include/}
    check "$name alone as C11" alone "$name" "$CC" -x c -std=c11 -pedantic
    check "$name alone as C++17" alone "$name" g++ -x c++ -std=c++17 -pedantic
done
for header in lib/*.h lib/torch/*.h offload/*.h; do
    [ -e "$header" ] || continue
    check "$header alone" alone "$PWD/$header" "$CC" -x c -std=gnu11 -D_GNU_SOURCE= \
        -iquote "$(dirname "$header")" -iquote lib
done
