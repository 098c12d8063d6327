#!/bin/bash
# Backends from outside, and the conformance suite over every backend there is: the
# command that vendors use. The last lines are the matrix of backends and checks.
. "$(dirname "$0")/tap.sh"
not_sanitized backends
terrace=$PWD/$BUILD/bin/terrace template=$PWD/$BUILD/examples/libterrace-template.so
# A library's path is looked at from the root down, so not below /tmp, but for the test of just that.
home=$PWD/$BUILD/backends-$$
mkdir -p "$home" && chmod 755 "$home"
trap 'rm -rf "$home"; tap_end' EXIT

fails() { # PATTERN COMMAND...
    local pattern=$1
    shift
    "$@" >"$scratch/out" 2>&1 && { cat "$scratch/out"; return 1; }
    cat "$scratch/out"
    grep -Eq -- "$pattern" "$scratch/out"
}
says() { # PATTERN COMMAND...
    local pattern=$1
    shift
    "$@" >"$scratch/out" 2>&1
    local status=$?
    cat "$scratch/out"
    [ $status -eq 0 ] && grep -Eq -- "$pattern" "$scratch/out"
}

# ---- TERRACE_BACKENDS --------------------------------------------------------
with() { TERRACE_BACKENDS=$1 "$terrace" info; }
check "a library's tiers are there" says "^template:0" with "$template"
check "its budget has a setting" env TERRACE_LIMIT_TEMPLATE=8M bash -c \
    "TERRACE_BACKENDS='$template' '$terrace' info | grep -A8 '^template:0' | grep -q 'budget *8.0 MiB'"
check "a library that is not there is named" fails "/nonexistent/x.so: No such file" with /nonexistent/x.so
check "a relative path is refused" fails "from the root on" with libx.so
echo text >"$home/text.so"
check "what is no library is named" fails "text.so cannot be loaded" with "$home/text.so"
echo 'int x;' | $CC -shared -fPIC -x c - -o "$home/empty.so"
check "a library without a backend is refused" fails "it has no terrace_backend_plugin" with "$home/empty.so"
cp "$template" "$home/open.so" && chmod 777 "$home/open.so"
check "a file that all may write is refused" fails "open.so is writable by everybody" with "$home/open.so"
mkdir "$home/open" && cp "$template" "$home/open/t.so" && chmod 777 "$home/open"
check "a folder that all may write is refused" fails "open is writable by everybody" with "$home/open/t.so"
ln -s "$home/open/t.so" "$home/link.so"
check "also by way of a link" fails "open is writable by everybody" with "$home/link.so"
check "one kind twice is refused" fails "two backends of the kind 'template'" with "$template:$template"

build() { # NAME SED-SCRIPT: the template, changed
    sed "$2" examples/backend_template.c >"$home/$1.c" &&
        $CC -shared -fPIC -Iinclude "$home/$1.c" -o "$home/$1.so" -pthread
}
check "a newer interface is refused" bash -c "$(declare -f build fails with); home=$home CC=$CC terrace=$terrace scratch=$scratch
    build newer 's/\.abi = TERRACE_BACKEND_ABI/.abi = 2/' && fails 'built for ABI 2' with '$home/newer.so'"
check "what was built with the first interface still works" bash -c "
    $CC -shared -fPIC -Itests/abi1 -Iinclude examples/backend_template.c -o '$home/abi1.so' -pthread &&
    TERRACE_BACKENDS='$home/abi1.so' '$terrace' info | grep -q '^template:0' &&
    '$terrace' backend-check '$home/abi1.so'"

# ---- the suite finds what is wrong --------------------------------------------
finds() { # CHECK NAME SED-SCRIPT
    build "$2" "$3" && ! cmp -s "$home/$2.c" examples/backend_template.c || return 1
    fails "^FAIL +$1 " "$terrace" backend-check --only "$1" "$home/$2.so"
}
check "found: copies the wrong way" finds bytes direction 's/op == TERRACE_IO_WRITE)/op != TERRACE_IO_WRITE)/'
check "found: a page too few" finds bytes short 's/io->host, io->bytes);/io->host, io->bytes - 4096);/'
check "found: a wake that is lost" finds wake lost 's/u->woken = 1;/u->woken = 0;/'
check "found: a wait that does not sleep" finds timeout eager 's/int late = timeout_ns == 0/int late = 1/'
check "found: more taken than fits" finds full greedy 's/info->io_depth = DEPTH/info->io_depth = DEPTH - 1/'
check "found: a copy that comes back twice" finds full double 's/u->queued -= n;/u->queued -= n > 1 ? n - 1 : n;/'
check "found: a descriptor that is left open" finds reopen leak 's/\*unit = u;/*unit = fopen("\/dev\/null", "r") ? u : u;/'
check "found: memory that is not given again" finds churn once 's/mprotect((void \*)(uintptr_t)address, bytes, PROT_READ | PROT_WRITE) == 0/!(address % 5) || 1/'
check "found: an error taken for none" finds stray blind 's/r ? 0 : -TERRACE_EINVAL/0/'
check "found: a range given twice" finds ranges twice 's/\*base = (uintptr_t)start;/static uint64_t same; if (!same) same = (uintptr_t)start; *base = same;/'
check "found: what it says of itself" finds table silent 's/snprintf(info->engine,/if (0) snprintf(info->engine,/'
check "a crash is one check's" fails "^FAIL +bytes .*killed by signal" bash -c "$(declare -f build); home=$home CC=$CC
    build crash 's/io->result = r/*(volatile char *)8 = 0; io->result = r/' && '$terrace' backend-check --only bytes '$home/crash.so'"
check "the report is JSON" bash -c "'$terrace' backend-check --json '$template' | python3 -c '
import json, sys
report = json.load(sys.stdin)
assert report[\"kind\"] == \"template\" and all(c[\"result\"] != \"failed\" for c in report[\"checks\"])
assert any(c.get(\"write\", 0) > 0 for c in report[\"checks\"])'"
check "a backend that is not known" fails "there is no backend 'nvmee'" "$terrace" backend-check nvmee
check "a device that is not there is said" fails "cannot be tried: there is no unit 7" "$terrace" backend-check --unit 7 numa
check "a check that is not known" fails "there is no check 'x'" "$terrace" backend-check --only x numa
check "the checks are listed" says "^  many " "$terrace" backend-check --list

# ---- every backend -------------------------------------------------------------
sims=$BUILD/tests/sim
row() { # COLUMN BACKEND [SETTING...]
    local column=$1 backend=$2
    shift 2
    env "$@" "$terrace" backend-check "$backend" >"$home/${column//\//-}.report" 2>&1
    local status=$?
    cat "$home/${column//\//-}.report"
    return $status
}
columns=()
column() { # COLUMN BACKEND [SETTING...]
    columns+=("$1")
    check "conformance: $1" row "$@"
}
column numa numa
column nvme/uring nvme TERRACE_IO=uring
column nvme/threads nvme TERRACE_IO=threads
column plug-in "$template"
if [ -n "$(ldconfig -p | grep libOpenCL.so.1)" ]; then column opencl opencl; fi
column cuda/sim cuda LD_LIBRARY_PATH="$sims" SIM_CUDA_DEVICES=2
for kind in hip musa maca ascend cnrt; do column $kind/sim $kind LD_LIBRARY_PATH="$sims/$kind" SIM_${kind^^}_DEVICES=2; done
column corex/sim corex COREX_HOME="$PWD/$sims/corex" SIM_COREX_DEVICES=2

echo "# what each backend passes; /sim: on a simulated runtime; -: does not concern it"
printf '# %-15s' ""
printf ' %-12s' "${columns[@]}"
echo
"$terrace" backend-check --list | while read -r name _; do
    printf '# %-15s' "$name"
    for c in "${columns[@]}"; do
        result=$(awk -v name="$name" '$2 == name && $1 ~ /^(ok|skip|FAIL)$/ { print $1 }' "$home/${c//\//-}.report" 2>/dev/null)
        printf ' %-12s' "${result/skip/-}"
    done
    echo
done
