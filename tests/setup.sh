#!/usr/bin/env bash
# Installs the Debian packages that tests and demo need and that are not there. Says what it does; does nothing
# when nothing is missing. Where it cannot install, it says what is missing: tests that need it are then skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

# tool that must exist : package that has it
wanted="mkfs.btrfs:btrfs-progs mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs losetup:mount nft:nftables ip:iproute2 java:openjdk-17-jre-headless mvn:maven"
# Servers whose rules are proven (tests/tests/library). These packages have no service of their own that would start.
wanted="$wanted mariadb-install-db:mariadb-server-core mariadb:mariadb-client-core redis-check-rdb:redis-tools"
# Shells under which the scripts for containers are tried; dash and bash are there.
wanted="$wanted busybox:busybox-static"

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

# etcd's package would start a service, so it is unpacked where its test looks for it, and not installed.
etcd=target/tools/etcd
if [ ! -x $etcd/usr/bin/etcd ] || [ ! -x $etcd/usr/bin/etcdctl ]; then
    if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
        echo "setup: unpacking Debian's etcd into $etcd"
        mkdir -p $etcd
        (cd $etcd && apt-get -o APT::Sandbox::User=root download etcd-server etcd-client >/dev/null &&
            for package in etcd-*.deb; do dpkg-deb -x "$package" . && rm "$package"; done) ||
            echo "setup: etcd could not be fetched; its test will say that it is skipped"
    else
        echo "setup: no etcd, because this is not Debian; its test will say that it is skipped"
    fi
fi

# csi-sanity is a Go program that its test builds by itself.
minor=$(go version 2>/dev/null | sed -n 's/.*go1\.\([0-9]*\).*/\1/p')
[ "${minor:-0}" -ge 21 ] ||
    echo "setup: no Go of version 1.21 or newer (Debian 12 has 1.19); the tests with csi-sanity will say that they are skipped"
