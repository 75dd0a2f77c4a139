#!/usr/bin/env bash
# Installs what demo and tests need and what is not there: Debian packages, etcd, Go, cargo-deny. Needs bash and root or sudo,
# nothing else. Says what it does; does nothing when nothing is missing. What it cannot get it names in one line that begins
# with `setup: LEFT OUT`: tests that need it are then skipped, and fail in CI.
# --lint: only what `make lint` needs.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"
tools=target/tools

# tool or file that must exist : package that has it
packages="cc:gcc /usr/include/stdio.h:libc6-dev make:make modprobe:kmod ip:iproute2 nft:nftables"
packages="$packages mkfs.btrfs:btrfs-progs mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs losetup:mount setpriv:util-linux"
packages="$packages tar:tar ldd:libc-bin /etc/ssl/certs/ca-certificates.crt:ca-certificates"
packages="$packages java:openjdk-17-jre-headless mvn:maven"
# Servers whose rules are proven (tests/tests/library). These packages have no service of their own that would start.
packages="$packages mariadb-install-db:mariadb-server-core mariadb:mariadb-client-core redis-check-rdb:redis-tools"
# Shells under which the scripts for containers are tried; dash and bash are there.
packages="$packages busybox:busybox-static"
# PostgreSQL's server programs are not on the path.
packages="$packages /usr/lib/postgresql/*/bin/initdb:postgresql"

# What Go is asked for in tests/cluster/kubernetes/go.mod, and which one is fetched where it is missing.
go_minor=26
go_version=v0.0.1-go1.26.8.linux-amd64
deny_version=0.20.2

left_out() { # what, why
    echo "setup: LEFT OUT $1: $2"
}

exists() { # tool or file, which may be a pattern
    case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

install_packages() {
    local missing="" pair root="" log
    for pair in $packages; do
        exists "${pair%:*}" || missing="$missing ${pair##*:}"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        left_out "packages$missing" "this is not Debian; install what has the same programs"
        return 0
    fi
    if [ "$(id -u)" != 0 ]; then
        root="sudo"
        [ -t 0 ] || root="sudo -n"
        if ! $root true 2>/dev/null; then
            left_out "packages$missing" "this needs root or sudo"
            return 0
        fi
    fi
    echo "setup: installing from Debian:$missing"
    # The cluster that Debian's package makes by itself is not wanted: tests make their own.
    $root mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" | $root tee /etc/postgresql-common/createcluster.conf >/dev/null
    log=$(mktemp)
    # Java's package expects a directory that minimal images lack.
    $root mkdir -p /usr/share/man/man1
    if ! { $root apt-get update && $root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
        echo "setup: apt-get failed; its last lines:"
        tail -n 20 "$log"
        exit 1
    fi
    rm -f "$log"
}

# Unpacks packages of Debian below a directory, without installing them. Ends with the status of apt-get.
unpack() { # directory, package…
    local into=$1
    shift
    command -v apt-get >/dev/null || return 1
    mkdir -p "$into"
    (cd "$into" && apt-get -o APT::Sandbox::User=root download "$@" >/dev/null &&
        for package in *.deb; do dpkg-deb -x "$package" . && rm "$package"; done)
}

# Its package would start a service, so it is unpacked where its test looks for it.
fetch_etcd() {
    [ ! -x $tools/etcd/usr/bin/etcd ] || [ ! -x $tools/etcd/usr/bin/etcdctl ] || return 0
    echo "setup: unpacking Debian's etcd into $tools/etcd"
    unpack $tools/etcd etcd-server etcd-client || left_out etcd "its packages could not be fetched from Debian"
}

minor() { # go
    "$1" version 2>/dev/null | sed -n 's/.*go1\.\([0-9]*\).*/\1/p'
}

# Debian 12 has Go 1.19, which can fetch a newer one as a module, checked against Go's own database of checksums.
fetch_go() {
    local go found old log
    for go in go $tools/go/bin/go; do
        found=$(minor "$go" || true)
        [ "${found:-0}" -lt $go_minor ] || return 0
    done
    if [ "$(uname -m)" != x86_64 ]; then
        left_out "Go 1.$go_minor" "unpack one into /usr/local/go"
        return 0
    fi
    echo "setup: fetching Go 1.$go_minor into $tools/go (150 MB)"
    old=$PWD/$tools/go-old
    log=$(mktemp)
    if unpack "$old" golang-1.19-go golang-1.19-src >"$log" 2>&1 &&
        GOROOT=$old/usr/lib/go-1.19 GOPATH=$old/path GOTOOLCHAIN= GOFLAGS=-modcacherw \
            "$old/usr/lib/go-1.19/bin/go" mod download "golang.org/toolchain@$go_version" >>"$log" 2>&1; then
        rm -rf $tools/go
        mv "$old/path/pkg/mod/golang.org/toolchain@$go_version" $tools/go
        # Modules are read-only and without the right to execute.
        chmod -R u+w,a+rX $tools/go
        chmod a+x $tools/go/bin/* $tools/go/pkg/tool/*/*
    else
        tail -n 5 "$log"
        left_out "Go 1.$go_minor" "it could not be fetched; unpack one into /usr/local/go"
    fi
    rm -rf "$old" "$log"
}

# Built once. A failure is a failure of the lint, which says so itself.
fetch_deny() {
    [ ! -x $tools/cargo-deny-$deny_version/bin/cargo-deny ] || return 0
    command -v cargo >/dev/null || return 0
    echo "setup: building cargo-deny $deny_version into $tools (two minutes)"
    local log
    log=$(mktemp)
    if ! cargo install --quiet --locked --root $tools/cargo-deny-$deny_version \
        --target-dir $tools/cargo-deny-build "cargo-deny@$deny_version" >"$log" 2>&1; then
        tail -n 5 "$log"
        left_out cargo-deny "it could not be built"
    fi
    rm -rf $tools/cargo-deny-build "$log"
}

mkdir -p $tools
if [ "${1:-}" = --lint ]; then
    fetch_deny
    exit 0
fi
install_packages
fetch_etcd
fetch_go
command -v cargo >/dev/null || left_out Rust "install it with rustup (https://rustup.rs); rust-toolchain.toml names the version"
