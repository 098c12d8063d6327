#!/bin/bash
# Programs as people have them, in less memory than they use: `make check-preload`.
# Arguments are parts of names: only these are run.
. "$(dirname "$0")/../tap.sh"
terrace=$PWD/$BUILD/bin/terrace
[[ $BUILD = /* ]] && terrace=$BUILD/bin/terrace
only=("$@")
big=$(mktemp -d /var/tmp/terrace-check.XXXXXX) || exit 1
trap 'rm -rf "$big"; tap_end' EXIT
. tests/preload/jobs.sh

run() { # MEMORY COMMAND...
    local ram=$1
    shift
    rm -f "$scratch/report"
    "$terrace" run -q --ram "$ram" --report="$scratch/report" --nvme-path "$big" -- "$@"
}

cat >"$scratch/stream.py" <<'END'
import numpy as np
n = 768 << 17
a = np.zeros(n)
for i in range(0, n, 1 << 20):
    a[i:i + (1 << 20)] = i
for k in range(2):
    a += 1
    b = np.sqrt(a[::4096])
    assert float(a[::1 << 20].sum()) == sum(i + k + 1.0 for i in range(0, n, 1 << 20))
a.reshape(-1, 1024)[:64].copy().sort()
c = a[: n // 4].copy()
del a
assert c[-1] == (n // 4 - 1 >> 20 << 20) + 2
END
numpy() { run 256M $python "$scratch/stream.py" && spilled; }
numpy_fork() {
    run 128M $python -c '
import multiprocessing as mp, numpy as np
a = np.arange(48 << 20, dtype=np.float64)
def part(i): return float(a[i << 20:(i + 1) << 20].sum())
if __name__ == "__main__":
    with mp.get_context("fork").Pool(2) as pool:
        got = pool.map(part, range(48))
    assert got == [sum((float(i << 20), float(((i + 1) << 20) - 1))) / 2 * (1 << 20) for i in range(48)]
'
}
cat >"$scratch/set.c" <<'END'
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
int main(void) /* goes over 400 MiB three times */
{
    size_t n = (size_t)400 << 17;
    uint64_t *p = malloc(n * 8), sum = 0;
    for (size_t i = 0; i < n; i++)
        p[i] = i;
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < n; i += 512)
            sum += p[i]++;
    return printf("%llu\n", (unsigned long long)sum) < 0;
}
END
in_group() { # LIMIT COMMAND...
    PYTHONPATH=bench $python -c '
import sys, cgroup
try:
    print(cgroup.run(sys.argv[2:], int(sys.argv[1]) << 20)[0], end="")
except cgroup.Killed:
    print("killed")
' "$@"
}
twice_its_group() {
    "$CC" -O1 "$scratch/set.c" -o "$scratch/set" || return 1
    local want got
    want=$("$scratch/set")
    [ "$(in_group 200 "$scratch/set")" = killed ] || { echo "it was not killed without"; return 1; }
    got=$(in_group 200 "$terrace" run -q --ram 160M --nvme-path "$big" -- "$scratch/set")
    echo "$got"
    [ "$got" = "$want" ] || return 1
    got=$(in_group 200 "$terrace" run -q --nvme-path "$big" -- "$scratch/set") # what the group allows is found out
    echo "$got"
    [ "$got" = "$want" ]
}

wanted() {
    [ ${#only[@]} = 0 ] && return
    local part
    for part in "${only[@]}"; do [[ $1 = *"$part"* ]] && return; done
    false
}
job() { ! wanted "$1" || check "$@"; }

job "numpy over three times its memory" numpy
job "numpy, and children by fork" numpy_fork
job "bash with long strings" bash_strings 96
job "sort of a file larger than its memory" sorted 64
job "git packs, checks, clones" git_packs 64
job "gcc makes the same object files of terrace" compiled lib/*.c
for module in bytes array mmap io subprocess threading; do
    job "python's test_$module" python_module "test_$module"
done
job "python's test_multiprocessing_fork" python_module test_multiprocessing_fork
job "sqlite3 in memory" sqlite 200
job "redis-server, with background saves" redis 200
job "stress-ng" stressed 40
job "PyTorch trains, with the same losses" torch_training 384 4
if [ "$(id -u)" = 0 ]; then
    job "twice a memory cgroup: killed without, the same result with" twice_its_group
else
    echo "ok memory cgroup # SKIP needs root"
fi
