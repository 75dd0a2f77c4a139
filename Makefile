# Everything a developer does. Each target prepares what it needs by itself.
# Root is needed to mount, freeze and use loop devices; where make does not run as root, sudo is used for that part only.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build smoke lab demo test lint bench soak e2e cluster cluster-databases cluster-down kubectl clean

CARGO ?= cargo
# Go where `make setup` unpacks it (only where there is no other), tools of the system administrator, Go where it usually is.
export PATH := $(CURDIR)/target/tools/go/bin:$(PATH):/usr/sbin:/sbin:/usr/local/go/bin
# Runs programs as root: directly, through sudo, or not at all (then tests that need root say so and are skipped).
AS_ROOT := $(shell if [ "$$(id -u)" = 0 ]; then echo ""; elif sudo -n true 2>/dev/null; then echo "sudo -n -E env PATH=$$PATH"; elif [ -t 0 ] && command -v sudo >/dev/null; then echo "sudo -E env PATH=$$PATH"; fi)
CLUSTER ?= dev
SOAK ?= 60
# What e2e builds and tests: dev is what `make test` has built already; PROFILE=lab for figures.
PROFILE ?= dev
# The one that was built last, by whichever target.
CLUSTER_PROGRAM = $(firstword $(shell ls -t target/lab/stillpoint-cluster target/debug/stillpoint-cluster 2>/dev/null))
BINARIES := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
HOST_TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
# cargo builds as you and runs what it built as root.
RUNNER := $(if $(AS_ROOT),CARGO_TARGET_$(HOST_TRIPLE)_RUNNER="$(AS_ROOT)")

help:  ## Show this.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup:  ## Install what is missing: Debian packages, etcd, Go. Without make: tests/setup.sh
	@tests/setup.sh

build:  ## Build what is shipped: target/release/stillpoint and stillpoint-guard, which is static. Looks at both.
	$(CARGO) build --release --locked -p stillpoint --bins
	$(CARGO) rustc --release --locked -p stillpoint-guard --bin stillpoint-guard -- -C target-feature=+crt-static -C strip=symbols
	@tests/shipped.sh target/release

smoke: setup build  ## One group snapshot over three nodes by the binaries that are shipped, restored and compared.
	$(CARGO) test --locked -p stillpoint-tests --test shipped --no-run
	STILLPOINT_BINARIES="$(CURDIR)/target/release" $(RUNNER) $(CARGO) test --locked -p stillpoint-tests --test shipped -- --ignored --test-threads=1

# Demo, benchmarks and the cluster to look around in have test switches that what is shipped has not.
lab:
	$(CARGO) build --profile lab --locked --workspace --bins

demo: setup lab  ## Real databases on three nodes, ten consistent snapshots, restored and checked. DEMO=small leaves Cassandra out.
	$(AS_ROOT) env DEMO="$(DEMO)" target/lab/stillpoint-demo

test: setup  ## Every test that needs no cluster. Its last line says what was not run.
	$(CARGO) build --locked --workspace --bins
	@tests/test.sh $(RUNNER) $(CARGO)

lint:  ## Format, clippy, dependencies, generated files.
	@.ci/lint

bench: setup lab  ## Pauses, write stalls, calls and memory beside scripts in the same rounds. WRITE=1 writes docs/benchmarks.md; ONLY=stalls (windows, together, ways, calls, overhead, lists, rules) measures that alone.
	$(AS_ROOT) target/lab/stillpoint-bench $(if $(WRITE),--write) $(if $(ONLY),--only $(ONLY))

soak: setup  ## Long tests, one after another, each SOAK=60 minutes long. SEED=n repeats one.
	FAULTS=2 $(CARGO) test --locked -p stillpoint-model --test round -- --nocapture no_order a_retry two_controllers
	$(CARGO) build --locked --workspace --bins
	$(AS_ROOT) env SEED="$(SEED)" target/debug/stillpoint-soak matrix --minutes $(SOAK)
	$(AS_ROOT) env SEED="$(SEED)" target/debug/stillpoint-soak thrasher --minutes $(if $(filter 60,$(SOAK)),10,$(SOAK))
	MINUTES=$(SOAK) EPISODES=1000 $(CARGO) test --locked --profile lab -p stillpoint --test simulation -- --nocapture whatever_goes_wrong

e2e: setup  ## Stillpoint in a real Kubernetes that is made for it and gone afterwards. TESTS=name for some of them.
	$(CARGO) build --locked --profile $(PROFILE) --workspace --bins
	$(CARGO) test --locked --profile $(PROFILE) -p stillpoint-tests --test e2e --no-run
	@AS_ROOT="$(AS_ROOT)" CLUSTER="$(if $(filter file,$(origin CLUSTER)),e2e,$(CLUSTER))" BINARIES="$(BINARIES)" \
	TESTS="$(TESTS)" KEEP="$(KEEP)" tests/e2e.sh $(RUNNER) $(CARGO) test --locked --profile $(PROFILE) -p stillpoint-tests --test e2e

cluster: setup lab  ## A real Kubernetes of three nodes on this machine. CLUSTER=name for another beside it.
	$(AS_ROOT) env CLUSTER="$(CLUSTER)" target/lab/stillpoint-cluster up

cluster-databases:  ## Images of Cassandra and PostgreSQL for the cluster, for deploy/examples/databases.
	@[ -x target/lab/stillpoint-cluster ] || $(MAKE) --no-print-directory lab
	$(AS_ROOT) env CLUSTER="$(CLUSTER)" target/lab/stillpoint-cluster databases

cluster-down:  ## Remove the cluster and everything it made.
	@[ -n "$(CLUSTER_PROGRAM)" ] || $(CARGO) build --locked -p stillpoint-tests --bin stillpoint-cluster
	$(AS_ROOT) env CLUSTER="$(CLUSTER)" $(or $(CLUSTER_PROGRAM),target/debug/stillpoint-cluster) down

kubectl:  ## Ask the cluster: make kubectl ARGS='get pods -A'.
	@$(AS_ROOT) env CLUSTER="$(CLUSTER)" $(or $(CLUSTER_PROGRAM),target/lab/stillpoint-cluster) kubectl $(ARGS)

clean:  ## Remove what was built. What a demo left is removed by the next demo.
	$(CARGO) clean
