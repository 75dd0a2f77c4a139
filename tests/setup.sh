#!/usr/bin/env bash
# Installs the Debian packages that tests and demo need and that are not there. Says what it does; does nothing
# when nothing is missing. Where it cannot install, it says what is missing: tests that need it are then skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

# tool that must exist : package that has it
wanted="mkfs.btrfs:btrfs-progs mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs losetup:mount java:openjdk-17-jre-headless mvn:maven"
export PATH="$PATH:/usr/sbin:/sbin"

missing=""
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
# PostgreSQL's server programs are not on the path.
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing="$missing postgresql"

if [ -n "$missing" ]; then
    root=""
    if [ "$(id -u)" != 0 ]; then root="sudo"; [ -t 0 ] || root="sudo -n"; fi
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing and not installed, because this is not Debian:$missing"
    elif ! $root true 2>/dev/null; then
        echo "setup: missing and not installed, because this needs root or sudo:$missing"
    else
        echo "setup: installing from Debian:$missing"
        # The cluster that Debian's package makes by itself is not wanted: tests make their own.
        $root mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo "create_main_cluster = false" | $root tee /etc/postgresql-common/createcluster.conf >/dev/null
        log=$(mktemp)
        if ! { $root apt-get update && $root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
            echo "setup: apt-get failed; its last lines:"
            tail -n 20 "$log"
            exit 1
        fi
        rm -f "$log"
    fi
fi

# csi-sanity is a Go program. Debian 12's Go (1.19) is too old to build it, so an own Go is used where there is one.
sanity=target/tools/csi-sanity
if [ ! -x "$sanity" ]; then
    go=$(command -v go || echo /usr/local/go/bin/go)
    minor=$("$go" version 2>/dev/null | sed -n 's/.*go1\.\([0-9]*\).*/\1/p')
    if [ "${minor:-0}" -ge 21 ]; then
        echo "setup: building csi-sanity v5.6.0 with $("$go" version | cut -d' ' -f3)"
        mkdir -p target/tools
        GOBIN="$PWD/target/tools" GOFLAGS=-mod=mod "$go" install github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v5.6.0 ||
            echo "setup: csi-sanity could not be built; its tests are skipped"
    else
        echo "setup: no Go of version 1.21 or newer (Debian 12 has 1.19), so csi-sanity is not built; its tests are skipped"
    fi
fi
