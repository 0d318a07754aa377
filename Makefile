# `make` lists the targets. Each installs what it needs and asks nothing.
# Build products stay out of the checkout: in $BODHI_CACHE.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BODHI_CACHE ?= $(HOME)/.cache/bodhi
CARGO_TARGET_DIR ?= $(BODHI_CACHE)/target
export BODHI_CACHE CARGO_TARGET_DIR
export PATH := $(HOME)/.cargo/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export npm_config_update_notifier := false

TOOLCHAIN := $(shell scripts/toolchain.sh)
ifneq ($(TOOLCHAIN),)
export RUSTUP_TOOLCHAIN := $(TOOLCHAIN)
endif

# llama.cpp is several times faster with the vector instructions of the processor at hand, and the
# crate that builds it uses them only if all Rust code is built for them too. So CMake is told. Of
# all variables cargo watches those that begin with GGML_: on another processor llama.cpp is built anew.
ifeq ($(shell uname -m),x86_64)
export CMAKE_C_FLAGS := -march=native -fPIC -ffunction-sections -fdata-sections -w
export CMAKE_CXX_FLAGS := $(CMAKE_C_FLAGS)
export GGML_BUILT_FOR := $(shell grep -m1 '^flags' /proc/cpuinfo 2>/dev/null | cksum | cut -d' ' -f1)
endif

# Cargo is always called for the whole workspace: features then unify in one way, and
# nothing is compiled twice. But for the worker: it wants other features of crates that all
# share, so it has calls of its own.

# More arguments of `bodhi up`, as in: make up ARGS="--manifests my-models"
ARGS ?=

.PHONY: help
help: ## list the targets
	@echo "Bodhi, a gateway for language models. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: up
up: ## build what is needed and start the gateway on http://localhost:1135
	@scripts/setup.sh build worker
	cargo build --workspace --exclude bodhi-worker --bin bodhi
	cargo build -p bodhi-worker
	@exec "$$CARGO_TARGET_DIR/debug/bodhi" up --demo-model tests/models/demo.gguf $(ARGS)

.PHONY: worker
worker: ## build the inference worker, llama.cpp included (minutes, once)
	@scripts/setup.sh build worker
	cargo build -p bodhi-worker

.PHONY: check
check: ## formatting, lints and forbidden dependencies: run before each commit
	@scripts/setup.sh build worker check
	cargo fmt --all --check
	cargo clippy --workspace --exclude bodhi-worker --all-targets -- -D warnings
	cargo clippy -p bodhi-worker --all-targets -- -D warnings
	@scripts/check-deps.py

.PHONY: test-fast
test-fast: ## all Rust tests, without llama.cpp and the client libraries
	@scripts/setup.sh build check test
	cargo build --workspace --exclude bodhi-worker --bins
	@scripts/check-docs.py "$$CARGO_TARGET_DIR/debug"
	cargo test --workspace --exclude bodhi-worker --no-fail-fast
	cargo test -p bodhi-worker --no-default-features --no-fail-fast

.PHONY: test-worker
test-worker: ## the inference worker's tests, with llama.cpp and real models
	@scripts/setup.sh build worker test
	cargo test -p bodhi-worker --no-fail-fast

.PHONY: test
test: ## everything: checks, Rust tests, llama.cpp, client libraries, a real API server
	@scripts/setup.sh build worker test sdk cluster
	@$(MAKE) check
	@$(MAKE) test-fast
	@$(MAKE) test-worker
	@$(MAKE) test-sdk
	@$(MAKE) test-local
	@$(MAKE) test-cluster
	@echo "make test: everything passed"

.PHONY: test-sdk
test-sdk: ## the official Python and Node libraries, directly and through the gateway
	@scripts/setup.sh build sdk
	cargo build --workspace --exclude bodhi-worker --bins
	tests/sdk/run.sh install
	cargo test --workspace --exclude bodhi-worker --test sdk -- --ignored --test-threads=1 \
		--skip libraries_on_models_that_run_here

.PHONY: test-local
test-local: ## client libraries and agents on local models: the demo model and MiniLM
	@scripts/setup.sh build worker sdk
	cargo build --workspace --exclude bodhi-worker --bins
	cargo build -p bodhi-worker
	cargo test --workspace --exclude bodhi-worker --test sdk -- --ignored --nocapture \
		libraries_on_models_that_run_here

.PHONY: cluster
cluster: ## build a real Kubernetes from Go modules, for tests (15 to 20 minutes, once)
	@scripts/setup.sh cluster
	tests/cluster/build.sh control

.PHONY: test-cluster
test-cluster: cluster ## what needs a Kubernetes API server
	@scripts/setup.sh build test cluster
	cargo build --workspace --exclude bodhi-worker --bins
	cargo test --workspace --exclude bodhi-worker --no-fail-fast --test 'cluster_*' -- --ignored

.PHONY: soak
soak: ## the random and exhaustive tests at full length, with a new seed unless BODHI_SEED=n
	@scripts/setup.sh build test
	cargo build --workspace --exclude bodhi-worker --bins
	BODHI_SOAK=1 BODHI_EDITS=$${BODHI_EDITS:-1000} BODHI_SEED=$${BODHI_SEED:-$$RANDOM} \
		cargo test --workspace --exclude bodhi-worker --no-fail-fast -- --nocapture

# More arguments, as in: make bench BENCH="--scale --rounds 9"
BENCH ?=

.PHONY: bench
bench: ## measure the gateway next to nginx; BENCH=--scale adds a large configuration
	@scripts/setup.sh build bench
	cargo build --profile bench -p bodhi-controller -p bodhi-dataplane -p bodhi-tests --bins
	@ulimit -n 16384; exec "$$CARGO_TARGET_DIR/release/bench" --json "$$CARGO_TARGET_DIR/bench.json" $(BENCH)

# One fuzz target runs this long.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZ_SECONDS=60; needs the nightly toolchain
	@scripts/setup.sh build
	@scripts/fuzz.sh $(FUZZ_SECONDS)
