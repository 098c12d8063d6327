#!/bin/bash
# The benchmarks compare like with like: every engine computes the same results,
# and the trainer's are the same over plain memory.
. "$(dirname "$0")/tap.sh"
not_sanitized bench
export OMP_WAIT_POLICY=passive
folder=$(mktemp -d "${TMPDIR:-/var/tmp}/terrace-check.XXXXXX") || exit 1
trap 'rm -rf "$folder"; tap_end' EXIT

sum() { # LOOP ENGINE OPTION...
    local loop=$1 engine=$2
    shift 2
    "$BUILD/bench/$loop" --engine "$engine" --folder "$folder" --limit 24 --steps 1 "$@" |
        sed -n 's/.*"sum": "\([0-9a-f]*\)".*/\1/p'
}

same_sum() { # LOOP ENGINES OPTION...
    local loop=$1 engines=$2 expected engine found
    shift 2
    expected=$(sum "$loop" ram "$@")
    [ -n "$expected" ] || return 1
    for engine in $engines; do
        found=$(sum "$loop" "$engine" "$@")
        echo "$engine $found, ram $expected"
        [ "$found" = "$expected" ] || return 1
    done
}

trainer() {
    BENCH_MEMORY=$1 LD_PRELOAD=$2 TERRACE_NVME_PATH=$folder \
        "$BUILD/examples/gpt" --layers 1 --width 32 --heads 2 --context 16 --steps 2 --hash --data "$0" | grep hash
}

same_hash() {
    local expected memory found
    expected=$(trainer '' '')
    for memory in anonymous "$folder"; do
        found=$(trainer "$memory" "$(realpath "$BUILD/bench/plain.so")")
        echo "$found; terrace: $expected"
        [ -n "$found" ] && [ "$found" = "$expected" ] || return 1
    done
}

rounds() { # a round and one more, each a process; their table and plot
    local run=(python3 bench/run.py --only random --size 48 --memory 32 --rivals ram --runs 1 --append)
    for _ in 1 2; do
        BUILD=$BUILD TMPDIR=$folder "${run[@]}" --results "$folder/results" >/dev/null || return 1
    done
    python3 bench/table.py "$folder/results/random.json" | tee "$folder/table"
    grep -q "Medians of 2 rounds" "$folder/table" && grep -q "^| ram |" "$folder/table" &&
        python3 bench/plot.py "$folder/results/random.json" && [ -s "$folder/results/random.svg" ]
}

io_cost() { # of the threads that move the bytes
    local pass
    for pass in read write; do
        echo | TERRACE_NVME_PATH=$folder "$BUILD/bench/stream" $pass 512 64 8 | tee "$folder/$pass"
        python3 -c 'import json, sys; sys.exit(json.loads(sys.stdin.readlines()[-1])["cpu_percent_per_GBps"] >= 5)' \
            <"$folder/$pass" || return 1
    done
}

# Simulated devices of two makes, at rates far below what copying memory takes: a route
# that does not read and write at the same time gets to half of the slower leg. Whoever
# has the processors meanwhile slows it down, so that it may be tried thrice.
between_makes() {
    local try
    for try in 1 2 3; do
        env TERRACE_TIERS=hip:0,musa:0,numa:0 LD_LIBRARY_PATH="$PWD/$BUILD/tests/sim/hip:$PWD/$BUILD/tests/sim/musa" \
            SIM_HIP_CAPACITY=1G SIM_HIP_DTOH_RATE=400M SIM_HIP_HTOD_RATE=500M \
            SIM_MUSA_CAPACITY=1G SIM_MUSA_DTOH_RATE=600M SIM_MUSA_HTOD_RATE=300M \
            "$BUILD/bench/relay" --runs 1 --least 0.9 && return 0
        echo "try $try"
    done
    return 1
}

check "between devices of two makes: 0.9 of the slower leg" between_makes
check "adam: all engines end with the same state" same_sum adam "terrace mmap pipeline" --size 64 --piece 1
check "adam, joint tensors" same_sum adam "terrace mmap pipeline" --size 64 --piece 2 --kind joint
check "inference: all engines have the same output" same_sum inference "terrace mmap pipeline" --size 48
check "random: all engines end with the same state" same_sum random "terrace mmap" --size 64 --piece 2 --kind zipf
check "gpt has the same weights over plain memory" same_hash
check "rounds of a benchmark are added up" rounds
check "moving bytes takes less than 5 % of a core per GB/s" io_cost
