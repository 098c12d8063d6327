#!/usr/bin/env bash
# Trains the same model twice, once with all of its state in memory and once
# with a quarter of it, and compares: the results must be the same to the bit.
#
#   make demo            or   BUILD=build examples/demo.sh [options of gpt]
#
# The second run's memory is limited by the kernel where this user may make a
# memory cgroup (v1 or v2), swap off: the budget given to terrace plus what the
# program needs besides tensors (code, stacks, scratch), measured in the first
# run. Elsewhere the peak of its resident memory and of its spill files' page
# cache is measured. The spill folder is terrace's: TERRACE_NVME_PATH.
set -u
export LC_ALL=C
gpt=${BUILD:-build}/examples/gpt
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # idle threads leave their core to the I/O
share=25 # percent of the working set
slack=$((8 << 20)) # the kernel charges memory in batches, per processor
work=$(mktemp -d) || exit 1
group='' child='' failures=0

cleanup() {
    trap '' INT TERM
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null
        wait "$child" 2>/dev/null
    fi
    group_remove
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() { echo "demo: $*" >&2; failures=$((failures + 1)); }
die() { echo "demo: $*" >&2; exit 1; }

# ---- a memory cgroup ---------------------------------------------------------

# Where groups may be made: our own group and its ancestors.
group_parents() {
    local root=$1 path=$2
    while :; do
        echo "$root${path%/}"
        case $path in '' | /) return ;; esac
        path=${path%/*}
    done
}

# Sets `group` to a new memory group, and `version`; fails if there can be none.
group_create() {
    local parent path root
    path=$(sed -n 's/^[0-9]*:\([^:]*,\)\{0,1\}memory\(,[^:]*\)\{0,1\}://p' /proc/self/cgroup)
    if [ -f /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
        version=1
        root=/sys/fs/cgroup/memory
    else
        version=2
        path=$(sed -n 's/^0:://p' /proc/self/cgroup)
        root=/sys/fs/cgroup
    fi
    while read -r parent; do
        group=$parent/terrace-demo.$$
        if mkdir "$group" 2>/dev/null; then
            if group_swap_off && (echo "$BASHPID" >"$group/cgroup.procs") 2>/dev/null; then
                return 0
            fi
            rmdir "$group" 2>/dev/null
        fi
    done < <(group_parents "$root" "$path")
    group=''
    return 1
}

group_swap_off() {
    if [ "$version" = 1 ]; then
        echo 0 >"$group/memory.swappiness"
    else
        [ -f "$group/memory.max" ] && { [ ! -f "$group/memory.swap.max" ] ||
            echo 0 >"$group/memory.swap.max"; }
    fi 2>/dev/null
}

group_limit() {
    if [ "$version" = 1 ]; then
        echo "$1" >"$group/memory.limit_in_bytes" &&
            { [ ! -f "$group/memory.memsw.limit_in_bytes" ] ||
                echo "$1" >"$group/memory.memsw.limit_in_bytes"; }
    else
        echo "$1" >"$group/memory.max"
    fi 2>/dev/null || die "the limit of $group cannot be set"
}

# The most the group ever used; empty where the kernel does not tell.
group_peak() {
    if [ "$version" = 1 ]; then
        cat "$group/memory.max_usage_in_bytes"
    elif [ -f "$group/memory.peak" ]; then
        cat "$group/memory.peak"
    fi
}

group_oom() {
    local file=$group/memory.events
    [ "$version" = 1 ] && file=$group/memory.oom_control
    sed -n 's/^oom_kill //p' "$file"
}

# How often the kernel had to reclaim because of the limit.
group_reclaims() {
    if [ "$version" = 1 ]; then
        cat "$group/memory.failcnt"
    else
        sed -n 's/^max //p' "$group/memory.events"
    fi
}

group_remove() {
    local tries=10
    [ -n "$group" ] || return 0
    while [ -d "$group" ] && [ "$tries" -gt 0 ]; do
        rmdir "$group" 2>/dev/null || sleep 0.2
        tries=$((tries - 1))
    done
    group=''
}

# ---- a run ---------------------------------------------------------------------

# Page cache of the regular files the process holds open for writing: its spill.
cache_now() {
    local fd flags sum=0 bytes
    for fd in "/proc/$1/fd/"*; do
        [ -f "$fd" ] || continue
        flags=$(sed -n 's/^flags:[[:space:]]*//p' "/proc/$1/fdinfo/${fd##*/}" 2>/dev/null)
        case $flags in *[12]) ;; *) continue ;; esac
        bytes=$(fincore -nrb -o RES "$fd" 2>/dev/null) && sum=$((sum + bytes))
    done
    echo "$sum"
}

# Watches resident memory plus that page cache until the process ends.
watch() {
    local rss cache most=0
    while kill -0 "$1" 2>/dev/null; do
        rss=$(sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$1/status" 2>/dev/null)
        [ -n "$rss" ] || break
        cache=$(cache_now "$1")
        [ $((rss * 1024 + cache)) -gt "$most" ] && most=$((rss * 1024 + cache))
        echo "$most" >"$work/watched"
        sleep 0.2
    done
}

# run NAME LIMIT OPTION...: LIMIT of the group in bytes, or 0. Leaves NAME.json,
# NAME.peak, NAME.oom and NAME.reclaims in $work.
run() {
    local name=$1 limit=$2 status
    shift 2
    if [ "$measure" = cgroup ]; then
        group_create || die "the memory cgroup cannot be made a second time"
        [ "$limit" = 0 ] || group_limit "$limit"
        (echo "$BASHPID" >"$group/cgroup.procs" && exec "$gpt" "$@" --json "$work/$name.json") &
    else
        "$gpt" "$@" --json "$work/$name.json" &
    fi
    child=$!
    [ "$measure" = cgroup ] || watch "$child"
    wait "$child" 2>/dev/null # without bash's own word on a killed job
    status=$?
    child=''
    if [ "$measure" = cgroup ]; then
        group_peak >"$work/$name.peak"
        group_oom >"$work/$name.oom"
        group_reclaims >"$work/$name.reclaims"
        [ "$(cat "$work/$name.oom")" = 0 ] || fail "the kernel killed the $name run: it passed its memory limit"
        group_remove
    else
        local rss
        rss=$(get "$name" peak_rss_bytes)
        cat "$work/watched" >"$work/$name.peak"
        [ "${rss:-0}" -gt "$(cat "$work/$name.peak")" ] && echo "$rss" >"$work/$name.peak"
    fi
    [ "$status" = 0 ] || die "the $name run ended with status $status"
}

# ---- reading and writing numbers -------------------------------------------

# get NAME KEY: a value of NAME.json, which has one key a line.
get() { sed -n "s/^  \"$2\": //p" "$work/$1.json" 2>/dev/null | sed 's/,$//; s/^["[]//; s/["]]*$//; s/]$//'; }
values() { get "$1" "$2" | tr -d ' ' | tr ',' '\n'; }
first() { values "$1" losses | head -n 1 | awk '{printf "%.9f", $1}'; }
last() { values "$1" losses | tail -n 1 | awk '{printf "%.9f", $1}'; }
# Over all steps but the first.
median() { values "$1" "$2" | tail -n +2 | sort -g | awk '{v[NR] = $1} END {print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2}'; }
mean() { values "$1" "$2" | tail -n +2 | awk '{s += $1} END {printf "%.6f", NR ? s / NR : 0}'; }
mib() { awk -v b="${1:-0}" 'BEGIN {printf "%.0f MiB", b / 1048576}'; }
sec() { awk -v s="$1" 'BEGIN {printf "%.2f s", s}'; }
# rate NAME PART ALL: two counters of NAME as a percentage.
rate() { awk -v h="$(get "$1" "$2")" -v a="$(get "$1" "$3")" 'BEGIN {if (a > 0) printf "%.1f %%", 100 * h / a; else printf "-"}'; }
same() { [ "$1" = "$2" ] && echo yes || echo NO; }
row() { printf '%-34s %20s %20s  %s\n' "$@"; }

# ---- the demonstration ---------------------------------------------------------

[ -x "$gpt" ] || die "$gpt is not there; run make first"
for variable in ${!TERRACE_LIMIT_*}; do
    case $variable in TERRACE_LIMIT_NVME*) ;; *) unset "$variable" ;; esac
done

measure=process
if group_create; then
    measure=cgroup
    group_remove
fi

echo "== all of it in memory"
run unlimited 0 --hash "$@"
working_set=$(get unlimited working_set_bytes)
budget=$((working_set * share / 100))
[ "$working_set" -ge $((1 << 30)) ] || fail "the working set is $(mib "$working_set"), less than 1 GiB"

# What the program needs besides tensors: measured, but at least its scratch.
baseline=$(($(grep . "$work/unlimited.peak" || get unlimited peak_rss_bytes) - $(get unlimited host_peak_bytes)))
least=$(($(get unlimited scratch_bytes) + slack))
[ "$baseline" -ge "$least" ] || baseline=$least
limit=$(((budget + baseline + slack) / 4096 * 4096))

echo
if [ "$measure" = cgroup ]; then
    echo "== $share % of it: $(mib $budget) for tensors, in a memory cgroup (v$version, no swap) of $(mib $limit)"
else
    echo "== $share % of it: $(mib $budget) for tensors; no memory cgroup can be made here, so memory is only measured"
fi
echo "   (beside the tensors: $(mib "$baseline") for code, stacks, scratch and corpus, and $(mib $slack) of slack)"
run limited "$limit" --hash --host-limit "$budget" "$@"

losses=$(same "$(get unlimited losses)" "$(get limited losses)")
hash=$(same "$(get unlimited hash)" "$(get limited hash)")
peak=$(cat "$work/limited.peak")
spilled=$(get limited writeback_bytes)
if [ "$measure" = cgroup ]; then
    label='memory cgroup, most used'
else
    label='peak of resident memory and page cache of the spill'
    command -v fincore >/dev/null || label='peak of resident memory (no fincore: page cache not seen)'
fi

echo
row '' 'all in memory' "$share % in memory" ''
row 'memory for tensors' "$(mib "$(get unlimited host_limit_bytes)")" "$(mib "$(get limited host_limit_bytes)")" "of a working set of $(mib "$working_set")"
row 'most memory tensors used' "$(mib "$(get unlimited host_peak_bytes)")" "$(mib "$(get limited host_peak_bytes)")" ''
row 'memory limit of the process' none "$([ "$measure" = cgroup ] && mib $limit || echo none)" "$(mib $budget) + $(mib $((limit - budget))) beside tensors"
row 'memory of the process' "$(mib "$(cat "$work/unlimited.peak")")" "${peak:+$(mib "$peak")}" "$label"
row 'loss, first step' "$(first unlimited)" "$(first limited)" ''
row 'loss, last step' "$(last unlimited)" "$(last limited)" "all steps identical: $losses"
row 'hash of weights and moments' "$(get unlimited hash)" "$(get limited hash)" "identical: $hash"
ratio=$(awk -v a="$(median limited step_seconds)" -v b="$(median unlimited step_seconds)" 'BEGIN {if (b) printf "%.2f", a / b}')
row 'time of a step' "$(sec "$(median unlimited step_seconds)")" "$(sec "$(median limited step_seconds)")" "ratio $ratio (medians, first step left out)"
row '  of it stalled' "$(sec "$(mean unlimited step_stall_seconds)")" "$(sec "$(mean limited step_stall_seconds)")" ''
row 'read in a step' "$(mib "$(mean unlimited step_read_bytes)")" "$(mib "$(mean limited step_read_bytes)")" ''
row 'written in a step' "$(mib "$(mean unlimited step_written_bytes)")" "$(mib "$(mean limited step_written_bytes)")" ''
row 'acquired without waiting' "$(rate unlimited hits acquires)" "$(rate limited hits acquires)" ''
row 'prefetched in time' "$(rate unlimited prefetch_hits prefetches)" "$(rate limited prefetch_hits prefetches)" ''
row 'spill engine' "$(get unlimited engine)" "$(get limited engine)" "$(get limited disk)"
if [ "$measure" = cgroup ]; then
    row 'reclaims at the limit, kills' "$(cat "$work/unlimited.reclaims"), $(cat "$work/unlimited.oom")" "$(cat "$work/limited.reclaims"), $(cat "$work/limited.oom")" ''
fi
echo
echo "losses identical: $([ "$losses" = yes ] && echo yes || echo no)"

[ "$losses" = yes ] || fail "the losses differ"
[ "$hash" = yes ] || fail "the final weights or moments differ"
[ "$(get limited host_peak_bytes)" -le "$(get limited host_limit_bytes)" ] || fail "terrace passed its budget: $(mib "$(get limited host_peak_bytes)")"
if [ -n "$peak" ] && [ "$peak" -gt "$limit" ]; then
    fail "$(mib "$peak") of memory used, $(mib $limit) allowed"
fi
[ "${spilled:-0}" -gt 0 ] || fail "nothing was spilled"
[ "$(get unlimited writeback_bytes)" = 0 ] || echo "note: this machine's memory did not hold the first run either; the time ratio means little"
[ "$failures" = 0 ]
