#!/bin/bash
# What people and tools see of a job: the report in its forms, the timeline, and
# `terrace top`, of programs that are linked and of those that are preloaded.
. "$(dirname "$0")/tap.sh"
not_sanitized see
command -v python3 >/dev/null || { echo "ok see # SKIP no python3"; exit 0; }
BUILD=$(realpath "$BUILD")
terrace=$BUILD/bin/terrace
watched=$BUILD/tests/prog_watched
export TERRACE_NVME_PATH=$BUILD/see-$$ TERRACE_LIMIT_NUMA=8M
mkdir -p "$TERRACE_NVME_PATH"
trap 'rm -rf "$TERRACE_NVME_PATH"; tap_end' EXIT

json() { python3 -c "
import json, sys
d = json.load(open('$1')) if '$1' != '-' else json.load(sys.stdin)
$2"; }

# ---- the report -------------------------------------------------------------------

report_as_json() {
    TERRACE_REPORT=$scratch/r.json "$watched" 0.2 >"$scratch/said" || return
    json "$scratch/r.json" "
said = json.loads(open('$scratch/said').read().split('\n')[1])
for key in 'acquires', 'steps', 'fill_bytes', 'writeback_bytes', 'stalls', 'stall_ns':
    assert d[key] == said[key], (key, d[key], said[key])
for is_, was in zip(d['tiers'], said['tiers']):
    assert is_['in_bytes'] == was['in_bytes'] and is_['out_bytes'] == was['out_bytes'], (is_, was)
    assert 0 < is_['byte_seconds'] <= is_['peak'] * (d['nanoseconds'] / 1e9), is_
for tier in d['tiers']:
    assert sum(r['bytes'] for r in d['routes'] if r['to'] == tier['name']) == tier['in_bytes']
assert sum(v['byte_seconds'] for v in d['vendors']) == sum(t['byte_seconds'] for t in d['tiers'])
assert d['tiers'][1]['engine'] and d['tiers'][1]['engine_reason'] and d['acquires'] > d['hits']"
}
check "the report as JSON says what the statistics say" report_as_json

# Its format, read by its rules: HELP and TYPE before a metric's samples, once.
report_as_prometheus() {
    TERRACE_REPORT=$scratch/r.prom "$watched" 0.2 >"$scratch/said" || return
    python3 - "$scratch/r.prom" "$scratch/said" <<'END'
import json, re, sys
said = json.loads(open(sys.argv[2]).read().split('\n')[1])
kind, value, order = {}, {}, []
for line in open(sys.argv[1]).read().split('\n')[:-1]:
    if line.startswith('# TYPE '):
        _, _, name, kind_of = line.split(' ')
        assert name not in kind and kind_of in ('counter', 'gauge'), line
        kind[name] = kind_of
    elif not line.startswith('# HELP '):
        m = re.fullmatch(r'([a-z_]+)(\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\})? ([0-9.]+)', line)
        assert m, line
        assert m[1] in kind and (not order or m[1] == order[-1] or m[1] not in order), line
        assert (m[1] + (m[2] or '')) not in value, line
        assert kind[m[1]] != 'counter' or m[1].endswith('_total'), line
        order.append(m[1])
        value[m[1] + (m[2] or '')] = float(m[3])
assert value['terrace_acquires_total'] == said['acquires'] and value['terrace_steps_total'] == said['steps']
assert abs(value['terrace_stall_seconds_total'] - said['stall_ns'] / 1e9) < 1e-6
assert value['terrace_route_bytes_total{from="nvme:0",to="numa:0"}'] == said['fill_bytes']
tier = 'tier="numa:0",kind="numa",class="host",vendor="'
assert any(k.startswith('terrace_tier_byte_seconds_total{' + tier) and v > 0 for k, v in value.items()), value
assert any(k.startswith('terrace_vendor_byte_seconds_total{vendor="') and v > 0 for k, v in value.items()), value
END
}
check "the report as Prometheus reads it" report_as_prometheus

report_at_exit() { # though nobody has closed the managers
    rm -f "$scratch/t.json" "$scratch/r"
    WATCHED_LEAVES_OPEN=1 TERRACE_REPORT=$scratch/r TERRACE_TRACE=$scratch/t.json "$watched" 0.1 2 >"$scratch/said" || return
    [ "$(grep -c '^terrace .* report' "$scratch/r")" = 2 ] &&
        timeline "$scratch/t.json" "$(sed -n 2p "$scratch/said")" "$(sed -n 3p "$scratch/said")"
}

report_replaces() {
    for i in 1 2; do TERRACE_REPORT=$scratch/again.json "$watched" 0 >"$scratch/said" || return; done
    json "$scratch/again.json" "assert d['steps'] == 3" && [ "$(find "$scratch" -name 'again.json*' | wc -l)" = 1 ]
}
check "a report for tools replaces the one before" report_replaces

report_for_people() {
    TERRACE_REPORT=1 "$watched" 0.2 2>"$scratch/err" >"$scratch/out" || return
    cat "$scratch/err"
    grep -q 'held on average [0-9.]* [KM]iB, in all' "$scratch/err" && grep -q 'from nvme:0 to numa:0: .*iB in' "$scratch/err" &&
        grep -q 'misses [1-9]' "$scratch/err" && grep -q 'engine [a-z_]*: ' "$scratch/err"
}
check "the report for people: residency, routes, misses, engine" report_for_people

report_elsewhere() { # a relative path means where the program began
    (cd "$scratch" && TERRACE_REPORT=here-%p.json "$watched" 0 >said & wait $!)
    ls "$scratch" | grep -q '^here-[0-9]*\.json$'
}
check "%p in a path is the process's number" report_elsewhere
comma() {
    local name
    for name in $(locale -a | grep -i '^de_\|^fr_'); do LC_ALL=$name report_as_prometheus || return; done
}
check "no locale changes the decimal point" comma

# ---- the timeline -----------------------------------------------------------------

# Every migration's bytes are in it, by route; and the counters end where they were.
timeline() { # TRACE STATISTICS...: the sum of what these say
    python3 - "$@" <<'END'
import json, sys
events = json.load(open(sys.argv[1]))
said = [json.loads(s) for s in sys.argv[2:]]
moves = [e for e in events if e['ph'] == 'X' and e['cat'] != 'stall']
stalls = [e for e in events if e['ph'] == 'X' and e['cat'] == 'stall']
assert not [e for e in events if e.get('cat') == 'lost']
for tier in said[0]['tiers']:
    for way, key in ('to', 'in_bytes'), ('from', 'out_bytes'):
        is_ = sum(e['args']['bytes'] for e in moves if e['args'][way] == tier['name'])
        want = sum(t[key] for s in said for t in s['tiers'] if t['name'] == tier['name'])
        assert is_ == want, (tier, way, is_, want)
assert len(stalls) == sum(s['stalls'] for s in said)
assert abs(sum(e['dur'] for e in stalls) * 1e3 - sum(s['stall_ns'] for s in said)) < len(stalls) + 1
assert len([e for e in events if e['name'].startswith('step ')]) == sum(s['steps'] for s in said)
assert {e['args']['priority'] for e in moves} <= {'demand', 'prefetch', 'write-back'}
last = {}
for e in sorted(moves, key=lambda e: e['ts']):   # what is on a track does not overlap
    assert last.get((e['pid'], e['tid']), 0) <= e['ts'] + 0.001, e
    last[e['pid'], e['tid']] = e['ts'] + e['dur']
named = {(e['pid'], e['tid']) for e in events if e['name'] == 'thread_name'}
assert set(last) <= named and {(e['pid'], e['tid']) for e in stalls} <= named
assert any(e['name'].endswith('/"w"\\\n\x1b[2J\ufffd\u00e9') for e in moves), moves[0]
END
}
trace_of_linked() {
    TERRACE_TRACE=$scratch/t.json "$watched" 0.3 >"$scratch/said" || return
    timeline "$scratch/t.json" "$(sed -n 2p "$scratch/said")"
}
check "the timeline has every byte the statistics have" trace_of_linked
check "a program that closes nothing has its report and timeline" report_at_exit
trace_of_managers() {
    TERRACE_TRACE=$scratch/t.json "$watched" 0.2 3 >"$scratch/said" || return
    timeline "$scratch/t.json" "$(sed -n 2p "$scratch/said")" "$(sed -n 3p "$scratch/said")" "$(sed -n 4p "$scratch/said")"
}
check "of several managers, too" trace_of_managers
trace_of_job() { # two processes at a time in one file
    rm -f "$scratch/t.json"
    TERRACE_TRACE=$scratch/t.json "$watched" 0.4 >"$scratch/said" & local one=$!
    sleep 0.1
    TERRACE_TRACE=$scratch/t.json "$watched" 0.4 >"$scratch/said2" && wait $one &&
        timeline "$scratch/t.json" "$(sed -n 2p "$scratch/said")" "$(sed -n 2p "$scratch/said2")"
}
check "processes at the same time share a timeline" trace_of_job
trace_of_killed() {
    TERRACE_TRACE=$scratch/k.json "$watched" 60 >"$scratch/said" & local one=$!
    sleep 0.5
    kill -KILL $one; wait $one 2>/dev/null
    python3 -c "
import json
text = open('$scratch/k.json').read()
assert not text.endswith(']\n') and len(json.loads(text + ']')) > 20"
}
check "a killed process leaves a timeline that can be read" trace_of_killed
trace_nowhere() {
    TERRACE_TRACE=/nowhere/t.json "$watched" 0 >"$scratch/out" 2>"$scratch/err" &&
        [ "$(wc -l <"$scratch/err")" = 1 ] && grep -q 'TERRACE_TRACE=/nowhere/t.json: the timeline cannot be written: No such' "$scratch/err"
}
check "a timeline that cannot be written is one line" trace_nowhere

# ---- terrace top ------------------------------------------------------------------

# Starts a program to look at; leaves its number in `job`.
start() {
    rm -f "$scratch/ready"
    "$watched" "$@" >"$scratch/ready" & job=$!
    for _ in $(seq 200); do grep -q ready "$scratch/ready" && break; sleep 0.05; done
    sleep 0.6
}
stop() { kill -KILL $job 2>/dev/null; wait $job 2>/dev/null; true; }

says() { # STATUS PATTERN ARGUMENT...
    local status=$1 pattern=$2
    shift 2
    "$terrace" top "$@" >"$scratch/out" 2>&1
    [ $? = "$status" ] && grep -Eq -- "$pattern" "$scratch/out" || { cat "$scratch/out"; false; }
}
top_list() {
    start 60
    "$terrace" top --once >"$scratch/out"; local status=$?
    stop
    cat "$scratch/out"
    [ $status = 0 ] && head -1 "$scratch/out" | grep -q 'PID.*PROGRAM.*MEMORY.*BUDGET.*HITS.*STALLED' &&
        grep -Eq "^ *$job  prog_watched +[0-9.]+ [KM]iB +8.0 MiB" "$scratch/out"
}
check "top: a line for each process" top_list
top_one() {
    start 60 2
    "$terrace" top --once $job >"$scratch/out"
    stop
    cat "$scratch/out"
    [ "$(grep -c '^'$job' prog_watched: manager' "$scratch/out")" = 2 ] && grep -Eq '^  numa:0 +[0-9.]+ [KM]iB +8.0 MiB +[0-9]+ %' "$scratch/out" &&
        grep -Eq '^  nvme:0 +numa:0' "$scratch/out" && grep -Eq '2.0 MiB +[0-9.]+ [KM]?i?B +[ :a-z0-9]* layers/0/"w"' "$scratch/out" &&
        ! grep -q $'\033' "$scratch/out"
}
check "top: all about one process, and nothing that a terminal would obey" top_one
top_json() {
    start 60
    "$terrace" top --once --json $job >"$scratch/out"
    stop
    json "$scratch/out" "
m = d['managers'][0]
assert len(d['managers']) == 1 and m['pid'] == $job and m['program'] == 'prog_watched' and m['acquires'] > 0
assert m['tiers'][0]['limit'] == 8 << 20 and 0 < m['tiers'][0]['used'] <= 8 << 20
assert {(r['from'], r['to']) for r in m['routes']} == {('numa:0', 'nvme:0'), ('nvme:0', 'numa:0')}
assert [b['bytes'] for b in m['biggest']] == [(2 << 20) - i * 65536 for i in range(8)], m['biggest']
assert m['age_ns'] < 2e9 and 0 <= m['hit_rate'] < 1"
}
check "top: --json" top_json
top_preloaded() {
    env -u TERRACE_LIMIT_NUMA "$terrace" run -q --ram 32M -- python3 -c '
import time
a = [bytearray(b"x" * (3 << 20)) for i in range(20)]
print("ready", flush=True)
time.sleep(60)' >"$scratch/ready" & job=$!
    for _ in $(seq 200); do grep -q ready "$scratch/ready" && break; sleep 0.05; done
    sleep 1.2
    "$terrace" top --once --json $job >"$scratch/out"
    stop
    json "$scratch/out" "
m = d['managers'][0]
assert m['faults'] > 0 and m['writeback_bytes'] > 0 and m['tiers'][0]['limit'] == 32 << 20, m
assert m['biggest'] and m['biggest'][0]['stable'] and m['biggest'][0]['bytes'] >= 3 << 20, m['biggest']"
}
userfaultfd() { ! "$terrace" run --ram 32M -- true 2>&1 | grep -q untouched; }
if userfaultfd; then check "top: a preloaded program" top_preloaded; fi
top_child() { # has its parent's page among its files
    env -u TERRACE_LIMIT_NUMA "$terrace" run -q --ram 32M -- python3 -c '
import os, time
a = bytearray(3 << 20)
if os.fork() == 0:
    print("child", os.getpid(), flush=True)
time.sleep(60)' >"$scratch/ready" & job=$!
    for _ in $(seq 200); do grep -q child "$scratch/ready" && break; sleep 0.05; done
    local child
    child=$(sed -n 's/child //p' "$scratch/ready")
    "$terrace" top --once --json >"$scratch/all"
    says 1 "process $child: it has no manager open" "$child"; local status=$?
    ls -l /proc/"$child"/fd | grep -c memfd:terrace
    kill -KILL "$child"
    stop
    [ $status = 0 ] && json "$scratch/all" "assert $job in [m['pid'] for m in d['managers']] and $child not in [m['pid'] for m in d['managers']]"
}
if userfaultfd; then check "top: a child does not pass for its parent" top_child; fi
top_ends() { # with the process
    start 2
    timeout 20 "$terrace" top --interval 0.2 $job >"$scratch/out"; local status=$?
    stop
    [ $status = 0 ] && [ "$(grep -c 'prog_watched: manager' "$scratch/out")" -ge 3 ] && ! grep -q $'\033' "$scratch/out"
}
check "top: ends when the process does" top_ends
top_interrupted() {
    local signal=$1
    start 60
    timeout --preserve-status -s "$signal" 1 "$terrace" top --interval 0.3 $job >"$scratch/out"; local status=$?
    stop
    [ $status = 0 ] && grep -q 'prog_watched: manager' "$scratch/out"
}
# A shell that runs something in the background has it ignore SIGINT; timeout has not.
check "top: ends cleanly when it is interrupted" top_interrupted INT
check "top: and when it is terminated" top_interrupted TERM
on_terminal() {
    start 60
    timeout 20 python3 - "$terrace" $job <<'END'
import os, pty, signal, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], 'top', '--interval', '0.2', sys.argv[2]])
data = b''
end = time.time() + 2
while time.time() < end:
    data += os.read(fd, 65536)
os.write(fd, b'\x03')
status = None
try:
    while True:
        data += os.read(fd, 65536)
except OSError:
    pass
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert data.count(b'\x1b[H') >= 3 and b'prog_watched' in data, data[:500]
END
    local status=$?
    stop
    return $status
}
check "top: on a terminal it repaints, and Ctrl-C ends it" on_terminal
check "top: a process that is not there" says 1 'process 4194303: there is no such process' 4194303
check "top: one that does not use terrace" says 1 "process $$: it has no manager open" $$
check "top: an interval that is none" says 2 'not 0' --interval 0
check "top: a key that is none" says 2 'traffic, used, hits, stalls, pid, not size' --sort size
check "top: an option that is not there" says 2 'no option like this.*--onec' --onec
check "top: a number that is none" says 2 'not 12x' 12x
check "top: help" says 0 '^usage: terrace top' --help
off() {
    TERRACE_TOP=0 "$watched" 3 >"$scratch/ready" & job=$!
    sleep 1
    says 1 'runs with TERRACE_TOP=0' --once $job; local status=$?
    stop
    return $status
}
check "top: a process that does not show itself" off

# Files that pass for pages: cut, of another version, full of nonsense, with text that
# a terminal would obey, and one that shrinks as it is read.
strangers() {
    start 60
    python3 - "$terrace" $job <<'END'
import fcntl, glob, os, random, subprocess, sys, threading
real = b''
for path in glob.glob('/proc/%s/fd/*' % sys.argv[2]):
    if os.readlink(path) == '/memfd:terrace (deleted)':
        real = open(path, 'rb').read()
assert len(real) > 4096
def page(data, seal=fcntl.F_SEAL_SHRINK):
    fd = os.memfd_create('terrace', os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    if seal:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
    return fd
mine = real[:16] + os.getpid().to_bytes(4, 'little') + real[20:]
def look(*more):
    r = subprocess.run([sys.argv[1], 'top', '--once', *more], capture_output=True, timeout=30)
    assert r.returncode in (0, 1) and b'\x1b' not in r.stdout + r.stderr, r
    return r
random.seed(5)
for i in range(120):
    data = bytearray(mine)
    for k in range(random.randrange(40)):
        at = random.randrange(20, len(data) - 8)
        data[at:at + 8] = random.choice([b'\xff' * 8, b'\x1b[2J\x1b[H', os.urandom(8)])
    if i % 4 == 1:
        data = data[:random.randrange(len(data))]
    elif i % 4 == 2:
        data = os.urandom(len(data))
    fd = page(bytes(data))
    look(str(os.getpid()))
    look('--json', str(os.getpid()))
    os.close(fd)
fd = page(mine)
assert look(str(os.getpid())).returncode == 0
os.close(fd)
fd = page(mine[:8] + (77).to_bytes(4, 'little') + mine[12:])
assert b'another version' in look(str(os.getpid())).stderr
os.close(fd)
fd = page(mine, 0)                      # one that is not sealed is left alone
assert look(str(os.getpid())).returncode == 1
os.close(fd)
odd = mine[:24] + (1).to_bytes(4, 'little') + mine[28:]   # for ever being written
fd = page(odd)
assert look(str(os.getpid())).returncode == 0
look()
END
    local status=$?
    stop
    return $status
}
check "top: survives any page" strangers
others() { # another user sees nothing, and is told so
    setpriv --reuid=65534 --clear-groups true 2>/dev/null || return 0
    start 60
    chmod 755 "$scratch"
    mkdir -p "$scratch/bin" "$scratch/lib" && cp "$terrace" "$scratch/bin" && cp -a "$BUILD"/lib/libterrace.so* "$scratch/lib"
    setpriv --reuid=65534 --clear-groups "$scratch/bin/terrace" top --once $job >"$scratch/out" 2>&1; local status=$?
    setpriv --reuid=65534 --clear-groups "$scratch/bin/terrace" top --once >"$scratch/out2" 2>&1
    stop
    cat "$scratch/out" "$scratch/out2"
    [ $status = 1 ] && grep -q 'Permission denied' "$scratch/out" && ! grep -q "$job" "$scratch/out2"
}
check "top: another user's processes are not shown" others

# ---- terrace run ---------------------------------------------------------------------

if userfaultfd; then
    run_traces() {
        env -u TERRACE_LIMIT_NUMA "$terrace" run -q --ram 32M --trace "$scratch/p.json" --report="$scratch/p-report.json" -- python3 -c '
a = [bytearray(b"x" * (3 << 20)) for i in range(20)]
for x in a: x[5000] = 1' || return
        python3 - "$scratch/p.json" "$scratch/p-report.json" <<'END'
import json, sys
events, report = (json.load(open(p)) for p in sys.argv[1:])
moves = [e for e in events if e['ph'] == 'X' and e['cat'] != 'stall']
assert [e['args']['name'] for e in events if e['name'] == 'process_name'] == ['python3'], events[:3]
for r in report['routes']:
    is_ = sum(e['args']['bytes'] for e in moves if (e['args']['from'], e['args']['to']) == (r['from'], r['to']))
    assert is_ == r['bytes'] > 0, (r, is_)
assert len(report['routes']) == 2 and report['faults'] > 0 and report['trace_lost'] == 0
END
    }
    check "run: --trace and --report of a preloaded program agree" run_traces
    run_stays() {
        (cd "$scratch" && "$terrace" run -q --ram 32M --trace moves.json --report=moves.prom -- python3 -c '
import os
os.chdir("/")
a = bytearray(3 << 20)') && json "$scratch/moves.json" 'assert d' && grep -q '^terrace_faults_total [1-9]' "$scratch/moves.prom"
    }
    check "run: files are where the command was given" run_stays
    run_says_once() {
        "$terrace" run -q --ram 32M --trace /nowhere/t -- python3 -c 'print(len(bytearray(3 << 20)))' >"$scratch/out" 2>&1
        [ $? = 0 ] && [ "$(grep -c TERRACE_TRACE=/nowhere "$scratch/out")" = 1 ] && grep -q 3145728 "$scratch/out"
    }
    check "run: a timeline that cannot be written is one line" run_says_once
fi
