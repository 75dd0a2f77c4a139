#!/usr/bin/env bash
# Looks at the binaries that are shipped: `make build` calls it. Argument: the directory with them. A check that needs to find
# nothing first shows, on a file that it makes itself, that it would find something.
set -euo pipefail
directory=$1
# As much as the guard may lock in memory.
guard_limit=4194304
# Fault points of tests, and both ways to switch off the quiesce over all nodes.
switches="STILLPOINT_FAULT_POINTS STILLPOINT_TEST_BARRIER without-barrier"

fail() {
    echo "shipped: $1"
    exit 1
}

control=$(mktemp)
trap 'rm -f "$control"' EXIT
for switch in $switches; do
    printf '\0\0%s\0' "$switch" >"$control"
    grep -qF -- "$switch" "$control" || fail "grep does not find $switch where it is"
    for program in stillpoint stillpoint-guard; do
        ! grep -qF -- "$switch" "$directory/$program" ||
            fail "$directory/$program has the test switch $switch; build it alone: make build"
    done
done
"$directory/stillpoint" --version >/dev/null || fail "$directory/stillpoint does not start"
said=$("$directory/stillpoint" snapshot --without-barrier --volume x 2>&1) && fail "--without-barrier is accepted"
case $said in
*"unexpected argument"*) ;;
*) fail "--without-barrier is refused for another reason: $said" ;;
esac
size=$(stat -c %s "$directory/stillpoint-guard")
[ "$size" -le $guard_limit ] ||
    fail "stillpoint-guard has $size bytes; it must stay below $guard_limit, all of which it locks in memory"
# A static program has no interpreter; ldd ends with an error for it.
! ldd "$directory/stillpoint-guard" 2>/dev/null | grep -q '=>' || fail "stillpoint-guard is linked with libraries"
echo "shipped: $directory/stillpoint $(stat -c %s "$directory/stillpoint") bytes, stillpoint-guard $size bytes, no test switches"
