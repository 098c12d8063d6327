#!/usr/bin/env bash
# check_budget.sh - much data through little memory, on both disk engines: every
# byte right, and the process never larger than the budget and its own needs.
# Under a sanitizer, which needs memory of its own, less data and no peak.
set -u
build=${BUILD:-build}
program=$build/tests/prog_budget
sizes='4096 256 330'
[ -z "${SANITIZE:-}" ] || sizes='256 32 100000'

for engine in uring threads; do
    name="bytes through a small budget with TERRACE_IO=$engine"
    # shellcheck disable=SC2086
    if out=$(TERRACE_IO=$engine "$program" $sizes 2>&1); then
        echo "ok $name: $out"
    else
        echo "not ok $name: $out"
    fi
done
