# jobs.sh - programs as people have them, for tests/check_programs.sh and programs.sh
# here: each function runs one twice, as it is and in less memory than it uses, and
# succeeds where the results are the same. Sizes are MiB, for a short run or a long one.
#
# What uses it sets: terrace (the command), big (a folder on a disk), scratch.

python=/usr/bin/python3

# In less memory; everything from 64 KiB on moves. What it did is in $scratch/report.
tiered() { # RAM COMMAND...
    local ram=$1
    shift
    rm -f "$scratch/report"
    "$terrace" run -q --ram "$ram" --min-size 64K --report="$scratch/report" --nvme-path "$big" -- "$@"
}
spilled() { grep -q 'written back [0-9.]* [KMG]iB' "$scratch/report" || { echo "nothing was spilled"; false; }; }
has() { command -v "$1" >/dev/null; }

# A command's output, both ways.
same() { # RAM COMMAND...
    local ram=$1
    shift
    "$@" >"$scratch/want" || return
    tiered "$ram" "$@" >"$scratch/got" || return
    cmp "$scratch/want" "$scratch/got"
}

bash_strings() { # SIZE
    cat >"$scratch/strings.sh" <<'END'
x=
for ((i = 0; i < 90000; i++)); do x+=$i,; done
declare -A seen
for ((i = 0; i < 300; i++)); do seen[key$i]=${x:i:20}; done
while [ $((${#x} * 2)) -le $(($1 << 20)) ]; do x=$x$x; done
y=${x:1234}
echo ${#x} ${#y} ${#seen[@]} "${seen[key77]}"
z=$(printf %s "$x" | tail -c 2000000)
printf %s "$x$y$z" | md5sum
END
    same $(($1 / 2))M bash "$scratch/strings.sh" "$1" && spilled
}

sorted() { # SIZE
    seq 1 $(($1 * 120000)) | awk -v n=$(($1 * 120000)) '{print $1 * 7919 % n}' >"$big/lines" || return
    same $(($1 * 3))M sort --parallel=2 -S "$1"0M -n "$big/lines" && spilled
    local result=$?
    rm -f "$big/lines"
    return $result
}

# Objects and packs have names that follow from what is in them.
git_packs() { # SIZE
    cat >"$scratch/packs.sh" <<'END'
set -e
rm -rf "$1" && mkdir "$1" && cd "$1"
export GIT_AUTHOR_DATE=2026-01-01T00:00:00Z GIT_COMMITTER_DATE=2026-01-01T00:00:00Z HOME=/nowhere
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q -b main . && git config pack.threads 1
for i in 1 2 3; do
    seq $i $(($2 * 40000 + i)) >large
    seq $((i * 1000)) >small$i
    git add . && git commit -qm "$i"
done
git repack -adfq --window=5
git fsck --full --strict 2>&1
git rev-parse HEAD HEAD~2:large
git diff --stat HEAD~2 HEAD
git log -p | md5sum
git clone -q --no-local . copy && git -C copy rev-parse HEAD
END
    same $(($1 / 4 + 4))M bash "$scratch/packs.sh" "$big/repository" "$1" && spilled
    local result=$?
    rm -rf "$big/repository"
    return $result
}

compiled() { # FILE...
    local flags="-O2 -D_GNU_SOURCE= -DTERRACE_BUILD -DTERRACE_WITHOUT_JEMALLOC -Iinclude -iquote lib"
    mkdir -p "$scratch/plain" "$scratch/tiered"
    printf '%s\n' "$@" | xargs -P 2 -I% bash -c "$CC $flags -c % -o $scratch/plain/\$(basename %).o" || return
    tiered 16M bash -c "printf '%s\n' $* | xargs -P 2 -I% bash -c '$CC $flags -c % -o $scratch/tiered/\$(basename %).o'" &&
        diff -r "$scratch/plain" "$scratch/tiered" && [ "$(ls "$scratch/tiered" | wc -l)" = $# ]
}

# A module of Python's own tests: the same ones fail, none as a rule. One is left out: it
# looks at which descriptors are open, and so sees terrace's.
python_module() { # MODULE
    local result
    $python -c "import test.$1" 2>/dev/null || { echo "libpython3-testsuite is not installed"; return 1; }
    outcome() {
        (cd "$scratch" && TERRACE_TOP=0 timeout -k 5 600 "$@" $python -m test -v "$module" -i test_pass_fds_redirected 2>&1 </dev/null) >"$scratch/log"
        echo "status $?"
        grep -aE '^(FAIL|ERROR): ' "$scratch/log" | sort
    }
    local module=$1
    outcome env >"$scratch/want"
    outcome "$terrace" run -q --ram 32M --min-size 64K --nvme-path "$big" -- >"$scratch/got"
    diff "$scratch/want" "$scratch/got"
    result=$?
    [ $result = 0 ] || tail -n 40 "$scratch/log"
    return $result
}

sqlite() { # SIZE
    cat >"$scratch/tables.sql" <<END
pragma page_size = 65536;
pragma cache_size = 100000;
create table t(id integer primary key, k integer, v blob);
with recursive n(i) as (select 1 union all select i + 1 from n where i < $1 * 250)
    insert into t select i, i * 7919 % 10007, printf('%03500d', i * i) from n;
create index by_k on t(k, id);
update t set v = v || k where k % 3 = 0;
delete from t where k % 11 = 0;
select count(*), sum(length(v)), max(k), min(id) from t;
select k, count(*), sum(id) from t group by k % 100 order by 3 desc limit 20;
select a.id, b.id from t a join t b on a.k = b.k + 1 order by substr(a.v, -20), 1, 2 limit 50;
vacuum;
pragma integrity_check;
END
    same $(($1 / 3))M sqlite3 :memory: ".read $scratch/tables.sql" && spilled
}

# Values of 200 KB, two saves by forked children meanwhile; a server as it is has the
# same data after it has loaded what the last one wrote.
redis() { # SIZE
    local keys=$(($1 * 5)) socket=$big/redis.sock server digest loaded result=1
    ask() { redis-cli -s "$socket" "$@"; }
    begin() { # COMMAND...
        "$@" redis-server --port 0 --unixsocket "$socket" --dir "$big" --save '' --appendonly no \
            --enable-debug-command yes >"$scratch/redis.log" 2>&1 &
        server=$!
        for _ in {1..300}; do [ "$(ask ping 2>/dev/null)" = PONG ] && return; sleep 0.1; done
        cat "$scratch/redis.log"
        return 1
    }
    end() { ask shutdown nosave >/dev/null 2>&1; wait $server; }
    saved() {
        ask bgsave || return
        for _ in {1..600}; do
            ask info persistence | grep -q '^rdb_bgsave_in_progress:0' && break
            sleep 0.1
        done
        ask info persistence | grep -q '^rdb_last_bgsave_status:ok'
    }
    rm -f "$big/dump.rdb"
    begin tiered $(($1 / 3))M &&
        redis-benchmark -s "$socket" -q -t set,get -d 200000 -r "$keys" -n $((keys * 2)) -c 8 >"$scratch/redis.bench" && {
        redis-benchmark -s "$socket" -q -t set,get -d 200000 -r "$keys" -n "$keys" -c 8 >>"$scratch/redis.bench" &
        saved && wait $! && saved && digest=$(ask debug digest) && result=0
    }
    end
    cat "$scratch/redis.bench"
    [ $result = 0 ] && spilled && begin env && loaded=$(ask debug digest)
    end
    echo "digest $digest, loaded $loaded"
    rm -f "$big/dump.rdb"
    [ ${#digest} = 40 ] && [ "$digest" = "$loaded" ]
}

# It looks at its memory itself (--verify), and says what it found. Its workers end by
# _exit(), without a report: the timeline shows that something was spilled.
stressed() { # SECONDS
    stress-ng --version >/dev/null || return
    rm -f "$scratch/moves"
    TERRACE_TRACE=$scratch/moves tiered 96M stress-ng --verify --timeout "$1" --temp-path "$big" --malloc 1 --malloc-bytes 192M --mmap 1 \
        --mmap-bytes 128M --fork 1 --vm 1 --vm-bytes 192M --vm-method all >"$scratch/stress" 2>&1
    local status=$?
    cat "$scratch/stress"
    [ $status = 0 ] && ! grep -Ei 'fail|error' "$scratch/stress" && grep -q write-back "$scratch/moves"
}

# The losses, to the bit.
torch_training() { # SIZE STEPS
    same $(($1 / 2))M $python bench/train_torch.py "$1" "$2" && spilled
}
