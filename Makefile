# The words people try first. One profile, one target folder outside the clone, so RocksDB compiles once per machine.
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/etcd-charm/target
BIN := $(CARGO_TARGET_DIR)/release

.PHONY: demo demo-down test verify fix charm bench soak setup build

setup: ; @.ci/setup
build: setup ; cargo build --release --locked --bins --examples
charm: build ; $(BIN)/pack etcd.charm
demo: charm ; $(BIN)/examples/lab demo etcd.charm
demo-down: build ; $(BIN)/examples/lab destroy
test: build ; cargo test --release --locked
bench: build ; cargo bench --locked --profile release --bench compare
soak: build ; cargo test --release --locked --test all -- --ignored --test-threads 1 --nocapture
verify: build ; $(BIN)/pack verify
fix: build ; $(BIN)/pack fix
