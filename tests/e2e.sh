#!/usr/bin/env bash
# Makes a cluster, runs the tests of tests/tests/e2e in it one after the other, and removes it, also when it is
# interrupted. Where no cluster can run, every test is reported as skipped with the reason. Called by `make e2e`, with
# the command that runs the tests as arguments.
# The external-storage suite of Kubernetes runs last; TESTS=external_storage_suite runs it alone.
# CLUSTER: its name. BINARIES: what is tested. AS_ROOT: how to become root. TESTS: only tests whose names contain this.
# KEEP=1: leave the cluster for a look.
set -uo pipefail
cd "$(dirname "$0")/.."

test_command=(env "$@")
# AS_ROOT is a command with arguments.
# shellcheck disable=SC2206
cluster=(${AS_ROOT:-} env "CLUSTER=$CLUSTER" "$BINARIES/stillpoint-cluster")

why=$("${cluster[@]}" able) || exit 1
why=${why//$'\n'/ }
if [ -n "$why" ]; then
    echo "e2e: no cluster can run here: $why"
    "${test_command[@]}" -- --ignored --list 2>/dev/null | sed -n 's/: test$//p' | while read -r name; do
        echo "e2e: $name skipped ($why)"
    done
    status=${PIPESTATUS[0]}
    echo "e2e: external_storage_suite skipped ($why)"
    exit "$status"
fi

# A filter that matches nothing runs nothing, which must not look like success.
chosen=$("${test_command[@]}" -- --ignored --list ${TESTS:+"$TESTS"} 2>/dev/null | grep -c ': test$')
if [ "$chosen" = 0 ] && [[ external_storage_suite != *"${TESTS:-}"* ]]; then
    echo "e2e: no test has ${TESTS:-} in its name"
    exit 1
fi

remove() {
    if [ -n "${KEEP:-}" ]; then
        echo "e2e: the cluster is still there; look with: make kubectl CLUSTER=$CLUSTER ARGS='get pods -A'"
    else
        "${cluster[@]}" down
    fi
}
interrupted() {
    trap - INT TERM
    remove
    exit 130
}
trap interrupted INT TERM

"${cluster[@]}" down || exit 1
status=0
if "${cluster[@]}" up; then
    echo "e2e: tests the binaries in $BINARIES"
    CLUSTER=$CLUSTER "${test_command[@]}" -- --ignored --nocapture --test-threads=1 ${TESTS:+"$TESTS"} || status=1
    if [[ external_storage_suite == *"${TESTS:-}"* ]]; then
        "${cluster[@]}" suite || status=1
    fi
else
    status=1
fi
if [ "$status" != 0 ]; then
    echo "e2e: how the cluster looks after the failure"
    "${cluster[@]}" kubectl get pods -A -o wide
    for component in controller agent; do
        "${cluster[@]}" kubectl -n stillpoint-system logs --all-containers --prefix --tail=40 \
            -l "app.kubernetes.io/component=$component" 2>&1
    done
fi
remove || status=1
exit "$status"
