# Two commands: `make demo` shows a paid answer end to end, `make test` proves the rest.
# Everything is built in one profile (release) into one folder outside the checkout, so that mistralrs compiles once.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/lumbung/target

# What is measured is built as images are, and without the embedded engine: a scripted one answers.
DIST = cargo build --locked --profile dist --no-default-features -p lumbung-gateway -p lumbung-provider -p lumbung-loadtest
LOADTEST = $(CARGO_TARGET_DIR)/dist/lumbung-loadtest

.PHONY: help demo test test-full lint fmt measure peers results instructions simulate bench spec docs setup

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: ## a network on this machine, a question, a paid answer; CHECK=1 verifies each step and exits
	@CHECK=$(CHECK) scripts/demo

test: ## the lints and every test (what CI runs)
	@scripts/test

test-full: ## the same tests, run for longer
	@LUMBUNG_TEST_FULL=1 scripts/test

lint: ## rustfmt, clippy, licences and duplicate versions of dependencies
	@scripts/setup test
	@scripts/lint

fmt: ## format the code
	@cargo fmt --all

measure: ## what a request costs the gateway beside nginx: CPU, latency, memory, size
	@scripts/setup build
	@$(DIST)
	@$(LOADTEST) compare

peers: ## the same beside nginx, haproxy, vllm-router, sglang-router and LiteLLM, which are installed; five rounds
	@scripts/setup test
	@scripts/peers
	@$(DIST)
	@$(LOADTEST) compare --beside nginx,haproxy,vllm-router,sglang-router,litellm --rounds 5

results: ## everything that is measured, written into loadtest/RESULTS.md; about an hour
	@scripts/setup test
	@scripts/peers
	@$(DIST)
	@cargo build --locked --release --workspace --bins
	@scripts/with-services $(LOADTEST) results --engine-bin $(CARGO_TARGET_DIR)/release

instructions: ## how many instructions a request takes, compared with loadtest/instructions.json; WRITE=1 writes it anew
	@scripts/setup test
	@$(DIST)
	@$(LOADTEST) instructions --baseline loadtest/instructions.json $(if $(WRITE),--write)

simulate: ## choosing a provider, on a virtual clock, beside simpler ways: the table in gateway/ROUTING.md
	@cargo test --locked --release -p lumbung-gateway --test routing -- --ignored --exact --nocapture table::write

bench: ## how long the hot functions take, and choosing a provider among ten and a hundred thousand
	@cargo bench --locked --workspace --bench wire --bench relay --bench render
	@cargo test --locked --release --workspace --test routing -- --ignored --nocapture bench::

spec: ## write openapi/openapi.json and openapi/PARAMETERS.md from the types and the code
	@LUMBUNG_WRITE_SPEC=1 cargo test --locked -p lumbung-openapi --test spec --test parameters

docs: ## build the documentation as a site; SERVE=1 shows it on this machine
	@SERVE=$(SERVE) scripts/docs

setup: ## install what the demo and the tests need
	@scripts/setup test
