#!/bin/bash
# Programs that know nothing of terrace, with libterrace-preload.so and a budget of
# 32 MiB: what malloc, mmap and fork promise holds while memory is spilled.
. "$(dirname "$0")/tap.sh"
not_sanitized preload
library=$PWD/$BUILD/lib/libterrace-preload.so
[[ $BUILD = /* ]] && library=$BUILD/lib/libterrace-preload.so
terrace=$BUILD/bin/terrace
report=$scratch/report

if ! LD_LIBRARY_PATH=$BUILD/lib TERRACE_LIMIT_HOST=32M LD_PRELOAD=$library \
    python3 -c 'x = bytearray(3 << 20)' 2>&1 | grep -q 'not tiered'; then :; else
    echo "ok preload # SKIP no userfaultfd here"
    exit 0
fi

build() { # SOURCE [FLAG...]
    local name=${1%.*}
    "$CC" -D_GNU_SOURCE -std=gnu11 -O1 -g -Wall -Wextra -Werror -pthread "tests/preload/$1" -o "$scratch/$name" "${@:2}"
}
job() { # PROGRAM [ARGUMENT...]
    rm -f "$report"
    TERRACE_LIMIT_HOST=32M TERRACE_REPORT=$report LD_PRELOAD=$library timeout -k 5 100 "$scratch/$1" "${@:2}"
}
spilled() { # as a job; it must have moved something
    job "$@" && grep -q 'written back [0-9.]* [MG]iB' "$report"
}
exports_little() {
    local other
    other=$(nm -D --defined-only "$library" | awk '{print $3}' | sort)
    diff <(sed -n 's/^    \([A-Za-z_0-9]*\);$/\1/p' lib/preload/preload.map | sort) - <<<"$other"
}
quiet_until_needed() { # no file, no ring, no thread
    local log=$scratch/strace
    command -v strace >/dev/null || return 0
    LD_PRELOAD=$library strace -f -o "$log" true &&
        ! grep -E '(io_uring[a-z_]*|userfaultfd|clone3?|memfd_create)\(|O_TMPFILE|"/var/tmp' "$log"
}

check "builds" eval 'build blocks.c && build maps.c && build forks.c && build threads.c && build calls.c -luring &&
    build loads.c -ldl && build own.c && build plugin.c -shared -fPIC &&
    build linked.c -Iinclude -L"$BUILD/lib" -lterrace -Wl,-rpath,"$(realpath "$BUILD/lib")" &&
    g++ -std=c++17 -O1 -Wall -Wno-alloc-size-larger-than tests/preload/news.cc -o "$scratch/news"'
check "exports only what stands in for others" exports_little
check "nothing is opened before the first large block" quiet_until_needed
check "malloc's promises" spilled blocks
smaller() { TERRACE_MIN_SIZE=64K spilled blocks smaller; }
check "blocks from a smaller size on" smaller
check "new and delete" spilled news
check "mappings, whole and in parts" spilled maps
check "system calls on spilled memory: files" spilled calls files
check "system calls on spilled memory: O_DIRECT" spilled calls direct
check "system calls on spilled memory: sockets" spilled calls sockets
check "system calls on spilled memory: small arguments" spilled calls arguments
check "system calls on spilled memory: the program's own ring" spilled calls ring
check "a child reads and writes what is spilled" spilled forks reads
check "a child outlives its parent, and forks" job forks outlives
check "many children" spilled forks many
check "a child unmaps, empties and moves what it inherited" spilled forks maps
check "system, popen, vfork and exec, posix_spawn" spilled forks starts
check "children by the bare system call" spilled forks clones
daemons() { job forks daemon | grep 'all is there'; }
check "a daemon has what its parent had" daemons
allowed() { TERRACE_ENCRYPT=1 TERRACE_FORK=allow job forks daemon; }
no_daemon() { ! TERRACE_ENCRYPT=1 job forks daemon && allowed; }
check "no daemon where it would lack memory, unless that is allowed" no_daemon
fork_fails() { TERRACE_ENCRYPT=1 job forks fails 2>"$scratch/said" && grep -q 'fork fails.*encrypted' "$scratch/said"; }
check "fork fails where the child would lack memory" fork_fails
check "thousands of threads" spilled threads come_and_go
check "threads that allocate at once" spilled threads at_once
check "signal handlers touch what is spilled, whatever is under way" spilled threads alarms
check "signal handlers allocate large blocks" spilled threads handlers
check "libraries are loaded and unloaded" job loads "$scratch/plugin"
own_malloc() { job own 2>"$scratch/err" && grep -q 'not tiered.*malloc of its own' "$scratch/err"; }
check "a program with a malloc of its own" own_malloc
check "a program that uses terrace itself, opened before its blocks" spilled linked first
check "a program that uses terrace itself, opened after" spilled linked last

# Descriptors of its own are out of the program's way, also where it has closed some.
own_numbers() {
    cat >"$scratch/numbers.py" <<'PY'
import os
blocks = [bytearray(b"%d" % i * (3 << 20)) for i in range(9)] + [bytearray(30 << 20)]
def is_ours(n):
    try:
        return any(word in os.readlink("/proc/self/fd/" + n) for word in ("userfault", "uring", "eventfd", "terrace"))
    except FileNotFoundError:
        return False
ours = {int(n) for n in os.listdir("/proc/self/fd") if is_ours(n)}
low = os.open("/dev/zero", os.O_RDONLY)
assert low == 0, low
for n in range(3, 40):
    os.dup2(low, n)
assert all(b[0] == b[-1] == ord("%d" % i) for i, b in enumerate(blocks[:9]))
assert ours and min(ours) >= 256, ours
PY
    job_python() { TERRACE_LIMIT_HOST=32M TERRACE_REPORT=$report LD_PRELOAD=$library /usr/bin/python3 "$scratch/numbers.py"; }
    rm -f "$report"
    job_python <&- && grep -q 'written back [0-9.]* MiB' "$report"
}
check "its files are not at the program's numbers" own_numbers

# ---- what is wrong is said in a line, and breaks nothing ----------------------

said() { # PATTERN COMMAND...: its output is there, and one line that matches
    local pattern=$1
    shift
    "$@" >"$scratch/out" 2>"$scratch/err"
    cat "$scratch/out" "$scratch/err"
    [ "$(cat "$scratch/out")" = 3145728 ] && [ "$(wc -l <"$scratch/err")" = 1 ] && grep -q "$pattern" "$scratch/err"
}
large=(python3 -c 'print(len(bytearray(3 << 20)))')
with() { env "LD_PRELOAD=$library" "$@"; }
check "a setting that cannot be used" said 'TERRACE_IO=fast' with TERRACE_IO=fast "${large[@]}"
check "a budget that cannot be used" said 'TERRACE_LIMIT_HOST=x' with TERRACE_LIMIT_HOST=x "${large[@]}"
check "a least size that cannot be used" said 'TERRACE_MIN_SIZE=many' with TERRACE_MIN_SIZE=many "${large[@]}"
check "a least size that is too small" said 'TERRACE_MIN_SIZE=4K' with TERRACE_MIN_SIZE=4K "${large[@]}"
check "a spill folder that is not there" said '/nowhere' with TERRACE_NVME_PATH=/nowhere "${large[@]}"
check "an engine that cannot serve it" said 'TERRACE_STABLE=file' with TERRACE_STABLE=file "${large[@]}"
unprivileged() {
    setpriv --reuid=65534 --clear-groups true 2>/dev/null || return 0
    [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] && [ ! -w /dev/userfaultfd -o "$(stat -c %a /dev/userfaultfd)" = 600 ] || return 0
    cp "$BUILD"/lib/libterrace*.so* "$scratch" && chmod 755 "$scratch"
    local python
    python=$(realpath /usr/bin/python3)
    said 'vm.unprivileged_userfaultfd' env "LD_PRELOAD=$scratch/libterrace-preload.so" setpriv --reuid=65534 --clear-groups \
        "$python" -c 'print(len(bytearray(3 << 20)))'
}
check "where userfaultfd serves no system calls" unprivileged

# ---- terrace run ---------------------------------------------------------------

runs() { # STATUS PATTERN ARGUMENT...
    local status=$1 pattern=$2
    shift 2
    "$terrace" run "$@" >"$scratch/out" 2>&1
    [ $? -eq "$status" ] && grep -q -- "$pattern" "$scratch/out" || { cat "$scratch/out"; false; }
}
check "run: says what it will do" runs 0 '32.0 MiB' --ram 32M -- true
check "run: the program's status is its own" runs 7 'in memory' -- sh -c 'exit 7'
signalled() { "$terrace" run -q -- sh -c 'kill -TERM $$'; [ $? -eq 143 ]; }
check "run: so are signals" signalled
quiet() { [ "$("$terrace" run -q --ram 32M -- echo out 2>&1)" = out ]; }
check "run: -q says nothing" quiet
check "run: preloads" runs 0 'libterrace-preload.so' -q -- sh -c 'grep preload /proc/$$/maps'
keeps_others() { LD_PRELOAD=/lib/x86_64-linux-gnu/libm.so.6 "$terrace" run -q -- sh -c 'echo "$LD_PRELOAD"' | grep -q 'preload.so:/lib/.*libm'; }
check "run: keeps what is preloaded already" keeps_others
check "run: an option's value that cannot be used" runs 1 'TERRACE_LIMIT_HOST=8Q is not accepted' --ram 8Q -- true
check "run: an option that is not there" runs 2 'no option --rum' --rum 8G -- true
check "run: no command" runs 2 'command is missing' --ram 8G
check "run: no such program" runs 127 'No such file' -- ./not-here
check "run: no program" runs 126 'Permission denied' -- /etc/passwd
check "run: more memory than there is" runs 0 'set --ram lower' --ram 10T -- true
untouched() { TERRACE_IO=fast runs 5 'runs untouched: TERRACE_IO=fast' -- sh -c 'exit 5'; }
check "run: a setting of the environment that cannot be used" untouched
echo 'int main(void) { return 4; }' >"$scratch/four.c"
static_program() { "$CC" -static "$scratch/four.c" -o "$scratch/four" && runs 4 'statically linked' -- "$scratch/four"; }
check "run: a static program" static_program
setuid_program() {
    "$CC" "$scratch/four.c" -o "$scratch/set" && chown 65534 "$scratch/set" && chmod 4755 "$scratch/set" || return 0
    runs 4 'setuid' -- "$scratch/set"
}
check "run: a setuid program" setuid_program
reports() { "$terrace" run -q --ram 32M --report="$scratch/r" -- "$scratch/blocks" keeps && grep -q 'written back' "$scratch/r"; }
check "run: --report" reports
reports_late() { seq 300000 | TERRACE_LIMIT_HOST=32M "$terrace" run -q --report -- sort -S 100M -n 2>&1 >/dev/null | grep -q 'written back'; }
check "run: --report, of a program that closes its stderr" reports_late
# Two processes and a third that is killed, each with more than the budget of all.
shares() {
    cat >"$scratch/shares.py" <<'PY'
import os, signal, sys
MIB = 1 << 20
def work(seed, size=40):
    blocks = [bytes([seed + i & 255]) * (2 * MIB) for i in range(size // 2)]
    for _ in range(3):
        for i, b in enumerate(blocks):
            assert b[0] == b[-1] == seed + i & 255 and b.count(b[0]) == 2 * MIB
    return blocks
if len(sys.argv) > 1:
    work(int(sys.argv[1]))
    sys.exit(0)
mine = work(7)
killed = os.fork()
if killed == 0:
    kept = work(99)
    os.kill(os.getpid(), signal.SIGKILL)
started = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, __file__, "50"])
assert os.waitpid(killed, 0)[1] == signal.SIGKILL
assert os.waitpid(started, 0)[1] == 0
forked = os.fork()
if forked == 0:
    assert all(b[0] == b[-1] == 7 + i & 255 for i, b in enumerate(mine))
    work(120)
    os._exit(0)
assert os.waitpid(forked, 0)[1] == 0
assert all(b.count(b[0]) == 2 * MIB and b[0] == 7 + i & 255 for i, b in enumerate(mine))
account = os.environ["TERRACE_SHARED"]
assert account.startswith("/dev/shm/terrace-shared-"), account
assert os.path.exists(account)
print(account)
PY
    rm -f "$scratch"/r-*
    "$terrace" run -q --ram 32M --shared --report="$scratch/r-%p" -- python3 "$scratch/shares.py" >"$scratch/out" 2>&1
    local result=$?
    cat "$scratch/out" "$scratch"/r-*
    [ $result = 0 ] && [ ! -e "$(cat "$scratch/out")" ] && [ "$(cat "$scratch"/r-* | grep -c 'written back')" -ge 2 ]
}
check "run: --shared" shares
leftover() { # what a killed job has left goes with the next one
    timeout -s KILL 2 "$terrace" run -q --ram 32M --shared -- python3 -c '
import os, time
x = bytearray(3 << 20)
print(os.environ["TERRACE_SHARED"], flush=True)
time.sleep(60)' >"$scratch/out"
    [ -e "$(cat "$scratch/out")" ] && "$terrace" run -q --ram 32M --shared -- true && [ ! -e "$(cat "$scratch/out")" ]
}
check "run: --shared, after a job that was killed" leftover
check "run: --shared says so" runs 0 'shared by the processes of /dev/shm/terrace-shared-' --ram 32M --shared -- true
check "run: --shared with a file that cannot be used" runs 1 'TERRACE_SHARED=/nowhere/x' --shared=/nowhere/x -- true
nested() { "$terrace" run -q --shared -- sh -c 'echo $TERRACE_SHARED; "$0" run -q --shared -- sh -c "echo \$TERRACE_SHARED"' "$terrace" | uniq | wc -l | grep -q '^1$'; }
check "run: --shared inside of a shared job" nested
check "run: help" runs 0 'usage: terrace run' --help
