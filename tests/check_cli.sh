#!/bin/bash
# The command as people and scripts meet it.
. "$(dirname "$0")/tap.sh"
terrace=$BUILD/bin/terrace
# A spill folder on a file system that is accepted, whatever /tmp is.
export TERRACE_NVME_PATH=$PWD/$BUILD/spill-$$
mkdir -p "$TERRACE_NVME_PATH"
trap 'rm -rf "$TERRACE_NVME_PATH"; tap_end' EXIT

# Whether a command exits with STATUS, and its output matches PATTERN.
gives() { # STATUS PATTERN COMMAND...
    local wanted=$1 pattern=$2 status
    shift 2
    "$@" >"$scratch/out" 2>&1
    status=$?
    cat "$scratch/out"
    echo "exit status $status, pattern $pattern"
    [ $status -eq "$wanted" ] && grep -Eq -- "$pattern" "$scratch/out"
}
quiet_on_stderr() { [ -z "$("$@" 2>&1 >/dev/null)" ]; }
version=$(sed -n 's/^#define TERRACE_VERSION "\(.*\)"/\1/p' include/terrace.h)

check "version" gives 0 "^terrace $version\$" "$terrace" version
check "--version" gives 0 "^terrace $version\$" "$terrace" --version
check "version takes no argument" gives 2 "no argument 'x'" "$terrace" version x
check "no command is a usage error" gives 2 "^usage: terrace COMMAND" "$terrace"
check "--help" gives 0 "^usage: terrace COMMAND" "$terrace" --help
check "help lists info" gives 0 "^  info " "$terrace" help
check "help of a command" gives 0 "^usage: terrace info" "$terrace" help info
check "COMMAND --help" gives 0 "^usage: terrace info" "$terrace" info --help
check "help of an unknown command" gives 2 "did you mean 'info'" "$terrace" help inof
check "help takes one argument" gives 2 "one argument" "$terrace" help a b
check "an unknown command has its nearest" gives 2 "'hlep'; did you mean 'help'\?" "$terrace" hlep
check "a command like no other has none" gives 2 "lists what there is" "$terrace" zzzzzzzz
check "help env names a setting" gives 0 "^  TERRACE_NVME_PATH=" "$terrace" help env
check "help env names the limits" gives 0 "^  TERRACE_LIMIT_<KIND>=" "$terrace" help env
check "help errors" gives 0 "TERRACE_EBUDGET +-5 " "$terrace" help errors
check "no line of help is too long" gives 1 "exit" bash -c "'$terrace' help env | grep -E '.{81}' || { echo exit; exit 1; }"
check "help is silent on standard error" quiet_on_stderr "$terrace" help env
check "a full disk is a failure" gives 1 "No space left" bash -c "'$terrace' help env >/dev/full"

check "info shows a host tier" gives 0 "^numa:0\$" "$terrace" info
check "info says where the budget came from" gives 0 "budget +[0-9.]+ [KMGT]iB \(.+\)" "$terrace" info
check "info says which engine and why" gives 0 "engine +[a-z_]+ \(.+\)" "$terrace" info
check "info shows a disk tier" gives 0 "class +disk" "$terrace" info
check "info is silent on standard error" quiet_on_stderr "$terrace" info
check "info shows the routes" gives 0 "^numa:0 +- +direct" env TERRACE_TIERS=numa:0,nvme:0 "$terrace" info --routes
check "and measures them" gives 0 "^nvme:0 +direct [0-9.]+ +-" \
    env TERRACE_TIERS=numa:0,nvme:0 TERRACE_LIMIT_NUMA=128M "$terrace" info --routes --measure
check "info has no other arguments" gives 2 "no argument '--jsno'" "$terrace" info --jsno
check "a limit shows in info" gives 0 "budget +64.0 MiB" env TERRACE_LIMIT_NUMA=64M "$terrace" info
check "a bad setting fails with its sentence" gives 1 \
    "TERRACE_IO=fast is not accepted; accepted is auto, uring or threads" \
    env TERRACE_IO=fast "$terrace" info
check "an unknown setting is warned about" gives 0 \
    "warning: .*TERRACE_LIMT_NUMA is not known; did you mean TERRACE_LIMIT_NUMA\?" \
    env TERRACE_LIMT_NUMA=8G "$terrace" info
check "a spill folder that is not there is named" gives 1 "/nonexistent/spill" \
    env TERRACE_NVME_PATH=/nonexistent/spill "$terrace" info
check "measured bandwidths" gives 0 "bandwidth +write [0-9.]+ GB/s, read [0-9.]+ GB/s" \
    env TERRACE_LIMIT_NUMA=128M "$terrace" info --measure
check "too little room is said, not measured" gives 0 "not measured \(too little room" \
    env TERRACE_LIMIT_NUMA=16M "$terrace" info --measure
check "measuring leaves no files behind" gives 1 "empty" bash -c \
    "find '$TERRACE_NVME_PATH' -type f | grep . || { echo empty; exit 1; }"

rules=$scratch/rules
printf '# house\nrole=optimizer: !cuda\nlabel=restricted/*: host, keep 30%% of device on ascend, musa\n' >"$rules"
check "rules that can be used" gives 0 "\(.*rules, line 3\): only on numa:0" "$terrace" rules check "$rules"
check "rules are explained" gives 0 "nvme:0 +never: \"label=restricted/\*: host\" \(.*, line 3\)" \
    "$terrace" rules explain restricted/w 64M --role weight --rules "@$rules"
check "rules of the environment are explained" gives 0 "numa:0 +allowed" \
    env TERRACE_RULES='rank=3:!nvme' "$terrace" rules explain x 4096 --rank 3
check "a rule is for one rank" gives 0 "nvme:0 +allowed" \
    env TERRACE_RULES='rank=3:!nvme' "$terrace" rules explain x 4096 --rank 2
printf 'role=weight:host\n label=a: !nmve\n' >"$rules"
check "errors in rules have line and column" gives 1 \
    "rules, line 2, column 12: 'nmve' is no tier, kind, vendor or class; did you mean 'nvme'\?" \
    "$terrace" rules check "$rules"
check "a setting of bad rules fails" gives 1 "TERRACE_RULES, line 1, column 1: 'x' is no selector" \
    env TERRACE_RULES=x "$terrace" info
check "rules that cannot be read" gives 1 "/nonexistent cannot be read: No such file" "$terrace" rules check /nonexistent
check "rules needs a word" gives 2 "check or explain is missing" "$terrace" rules
check "rules explain needs a size" gives 2 "bytes such as 4096, 512M or 1.5GiB, not 'x'" "$terrace" rules explain a x
check "rules explain knows roles" gives 2 "'wieght'" "$terrace" rules explain a 1 --role wieght

json_valid() {
    "$terrace" info --json "$@" | python3 -c '
import json, sys
info = json.load(sys.stdin)
tier = info["tiers"][0]
assert info["version"] and tier["name"] == "numa:0" and tier["limit"] > 0, info
assert ("write_bytes_per_second" in tier) == (len(sys.argv) > 1), info' "$@"
}
if command -v python3 >/dev/null; then
    check "--json is JSON" json_valid
    TERRACE_LIMIT_NUMA=128M check "--json --measure is JSON" json_valid --measure
fi
