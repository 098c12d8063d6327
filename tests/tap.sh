# tap.sh - for tests/check_*.sh: goes to the repository root and gives
# `check NAME COMMAND...`, which prints "ok NAME" or, with the command's
# output, "not ok NAME". Ends the script non-zero if one failed.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export LC_ALL=C
BUILD=${BUILD:-build} CC=${CC:-gcc} SANITIZE=${SANITIZE:-} tap_failed=0
scratch=$(mktemp -d) || exit 1

check() {
    local name=$1
    shift
    if "$@" >"$scratch/.output" 2>&1; then
        echo "ok $name"
    else
        echo "not ok $name"
        sed 's/^/# /' "$scratch/.output"
        tap_failed=1
    fi
}

# Ends the script where it says nothing about a sanitized build.
not_sanitized() {
    [ -z "$SANITIZE" ] && return
    echo "ok $1 # SKIP the same without a sanitizer"
    exit 0
}

tap_end() {
    local status=$?
    rm -rf "$scratch"
    [ $tap_failed -eq 0 ] || status=1
    exit $status
}
trap tap_end EXIT
