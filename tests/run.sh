#!/bin/bash
# Runs the test programs ($BUILD/tests/test_*) and shell checks
# (tests/check_*.sh), or those named as arguments. Prints a line for each, the
# whole output of what failed, and last the sum: "N passed, 0 failed".
#
# Before it stands for each kind of accelerator how many of these ran on a simulated
# driver or runtime of its; that none did where some should have is a failure, too.
#
# A program says how many tests passed in Criterion's last line; a script
# prints "ok NAME" or "not ok NAME" for each ("ok NAME # SKIP why" counts for
# nothing). A crash, a timeout or silence is a failure.
cd "$(dirname "$0")/.." || exit 1
export BUILD=${BUILD:-build} CC=${CC:-gcc} SANITIZE=${SANITIZE:-} LC_ALL=C
limit=${TEST_TIMEOUT:-300}
output=$(mktemp) || exit 1
trap 'rm -f "$output"' EXIT
total_passed=0 total_failed=0
declare -A simulated # by kind: tests that passed on a simulated accelerator; unset: none were to run
kinds='cuda hip musa maca corex ascend cnrt'

# Settings of whoever runs this must not change what is tested.
for name in $(compgen -e TERRACE_; compgen -e SIM_); do unset "$name"; done

launch=()
if [ -n "$SANITIZE" ]; then
    limit=$((limit * 3))
    export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1}
    export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
fi
# The thread sanitizer cannot place its shadow under some address layouts.
case $SANITIZE in
*thread*) setarch -R true 2>/dev/null && launch=(setarch -R) ;;
esac

report() { # NAME PASSED FAILED STATUS SECONDS
    total_passed=$((total_passed + $2))
    total_failed=$((total_failed + $3))
    if [ "$3" -eq 0 ]; then
        printf 'ok      %-24s %4d passed  %3d s\n' "$1" "$2" "$5"
        return
    fi
    printf 'FAILED  %-24s %4d passed, %d failed, exit status %s\n' "$1" "$2" "$3" "$4"
    sed 's/^/    /' "$output"
}

# Runs a command under the time limit; leaves `status` and `seconds`.
run() {
    seconds=$SECONDS
    timeout -k 10 "$limit" "$@" >"$output" 2>&1 </dev/null
    status=$?
    seconds=$((SECONDS - seconds))
    [ $status -ne 124 ] || echo "timed out after $limit s" >>"$output"
}

# No failure counted, and yet not a success: that is one, too.
settle() {
    if [ "$failed" -eq 0 ] && [ $status -ne 0 ]; then failed=1; fi
    report "$1" "$passed" "$failed" "$status" "$seconds"
}

run_program() {
    run "${launch[@]}" "$BUILD/tests/$1"
    local line
    line=$(grep -a 'Synthesis:' "$output" | tail -n 1)
    passed=$(sed -n 's/.*Passing: \([0-9]*\).*/\1/p' <<<"$line")
    failed=$(sed -n 's/.*Tested: \([0-9]*\).*/\1/p' <<<"$line")
    if [ -n "$passed" ] && [ "${failed:-0}" -gt 0 ]; then
        failed=$((failed - passed))
    else
        passed=0 failed=1
        echo "no tests ran to the end" >>"$output"
    fi
    local kind=${1#test_}
    kind=${kind%%_*}
    case " $kinds " in *" $kind "*) simulated[$kind]=$((simulated[$kind] + passed)) ;; esac
    settle "$1"
}

run_script() {
    run bash "tests/$1.sh"
    passed=$(grep -a '^ok ' "$output" | grep -vc '# SKIP')
    failed=$(grep -ac '^not ok ' "$output")
    if ! grep -aq '^\(not \)\?ok ' "$output"; then
        failed=1
        echo "no tests ran" >>"$output"
    fi
    settle "$1"
}

if [ $# -eq 0 ]; then
    for kind in $kinds; do simulated[$kind]=0; done
    for source in tests/test_*.c tests/check_*.sh; do
        [ -e "$source" ] || continue
        source=${source#tests/}
        set -- "$@" "${source%.*}"
    done
fi

for name; do
    case $name in
    check_*) run_script "$name" ;;
    *) run_program "$name" ;;
    esac
done

[ $((total_passed + total_failed)) -gt 0 ] || total_failed=1
for kind in $kinds; do
    [ -n "${simulated[$kind]:-}" ] || continue
    echo "$kind: ${simulated[$kind]} of these on a simulated runtime"
    [ "${simulated[$kind]}" != 0 ] || total_failed=$((total_failed + 1))
done
echo "$total_passed passed, $total_failed failed"
[ $total_failed -eq 0 ]
