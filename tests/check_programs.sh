#!/bin/bash
# Programs as people have them, in less memory than they use: a short form of `make
# check-preload` of those that are installed.
. "$(dirname "$0")/tap.sh"
not_sanitized programs
terrace=$PWD/$BUILD/bin/terrace
[[ $BUILD = /* ]] && terrace=$BUILD/bin/terrace
if ! "$terrace" run -q -- true 2>/dev/null || "$terrace" run -- true 2>&1 | grep -q untouched; then
    echo "ok programs # SKIP no userfaultfd here"
    exit 0
fi
big=$(mktemp -d /var/tmp/terrace-check.XXXXXX) || exit 1
trap 'rm -rf "$big"; tap_end' EXIT
. tests/preload/jobs.sh

installed() { # COMMAND NAME WHAT...
    if has "$1"; then check "${@:2}"; else echo "ok $2 # SKIP no $1 here"; fi
}
check "bash with long strings" bash_strings 16
check "sort of a file" sorted 8
check "gcc makes the same object files" compiled lib/arena.c lib/options.c lib/error.c
installed git "git packs, checks, clones" git_packs 8
installed sqlite3 "sqlite3 in memory" sqlite 32
installed redis-server "redis-server, with background saves" redis 48
installed stress-ng "stress-ng" stressed 5
