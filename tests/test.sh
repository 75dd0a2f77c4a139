#!/usr/bin/env bash
# What `make test` runs after the build: every test that needs no cluster. Ends with one line that says what was not run, and
# with 1 when a test failed. Arguments: cargo, after settings with which it runs as root what it has built. Tests that cannot
# run here add a line `name: why` to the file STILLPOINT_SKIPS. With STILLPOINT_COMPLETE, a missing tool fails its tests.
set -uo pipefail
cd "$(dirname "$0")/.."

own_skips=""
if [ -z "${STILLPOINT_SKIPS:-}" ]; then
    own_skips=$(mktemp)
    chmod 0666 "$own_skips"
    export STILLPOINT_SKIPS=$own_skips
fi
log=$(mktemp)
trap 'rm -f "$log" $own_skips' EXIT
status=0
as_root=(env "$@")
cargo=${*: -1}

run() { # command…
    "$@" 2>&1 | tee -a "$log"
    [ "${PIPESTATUS[0]}" = 0 ] || status=1
}

run "${as_root[@]}" test --locked --workspace --no-fail-fast --lib --bins
run "${as_root[@]}" test --locked --workspace --no-fail-fast --test '*' -- --test-threads=1
# csi-sanity over the model, with the tool that tests/tests/sanity.rs has built.
sanity="csi-sanity over the model"
tool=$(ls -d "$PWD"/target/tools/csi-sanity-*/csi-sanity 2>/dev/null | tail -n 1)
if [ -n "$tool" ]; then
    CSI_SANITY=$tool run "${as_root[@]}" test --locked --workspace --lib csi_sanity -- --ignored
elif [ -n "${STILLPOINT_COMPLETE:-}" ]; then
    echo "FAILED $sanity: its tool is not there; see tests/sanity/README.md"
    status=1
else
    echo "$sanity: its tool is not there" >>"$STILLPOINT_SKIPS"
fi
run "$cargo" test --locked --workspace --no-fail-fast --doc

# Ignored tests say in their attribute who runs them.
ignored=$(sed -nE 's/^test (.*) \.\.\. ignored(, (.*))?$/\1: \3/p' "$log" | grep -vE 'run by: make (e2e|test|smoke)$')
skipped=$(sort -u "$STILLPOINT_SKIPS")
not_run=$(printf '%s\n%s\n' "$skipped" "$ignored" | grep -v '^$')
in_cluster=$(grep -c 'run by: make e2e$' "$log")
if [ -n "$not_run" ]; then
    printf '%s\n' "$not_run" | sed 's/^/  not run: /'
    count=$(printf '%s\n' "$not_run" | wc -l)
    echo "make test: $count tests or parts of tests were NOT run, see above; $in_cluster more need a cluster: make e2e"
else
    echo "make test: everything was run; $in_cluster more tests need a cluster: make e2e"
fi
exit "$status"
