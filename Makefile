# Aureus from a clean clone: `make run` starts it, `make test` proves it. Whatever either needs, they install first.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES := domain commands projections infra streams api
CHECKED := $(PACKAGES) tests bench

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run kafka servers test test-slow test-postgres check format bench tour verifier docs lock clean

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(INSTALLED) ## Put everything Aureus needs into .venv, at pinned versions and hashes
	@:

$(INSTALLED): requirements/tools.txt requirements/dev.txt pyproject.toml scripts/install.sh
	@scripts/install.sh
	@touch $@

run: install ## Start Aureus: its database, the API and the projections
	@exec $(BIN)/aureus serve

kafka: ## Run a Kafka broker on 127.0.0.1:9092 until Ctrl-C, for AUREUS_STREAMS=kafka
	@exec scripts/broker.sh

servers: ## Install or build what tests start besides PostgreSQL: Chromium, SoftHSM, Redis, OPA, MinIO, Kafka, Keycloak, a verifier in Go
	@command -v chromium >/dev/null || scripts/debian.sh chromium
	@command -v softhsm2-util >/dev/null || scripts/debian.sh softhsm2
	@command -v redis-server >/dev/null || scripts/debian.sh redis-server
	@scripts/opa.sh
	@scripts/minio.sh
	@scripts/kafka.sh
	@scripts/keycloak.sh
	@scripts/thirdparty.sh

test: install servers ## Run every test but the slow ones
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-slow: install servers ## Run the slow tests: what Kafka, the workers and PostgreSQL survive
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow $(ARGS)

test-postgres: install ## Run the tests that need a database on Debian's PostgreSQL, over TLS and with a password
	@scripts/with-postgres.sh $(BIN)/python -m pytest -n 2 --dist loadfile -m "postgres15 and not slow" $(ARGS)

check: install ## Lint, format, types, layers and the tidiness of the tree
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/mypy $(CHECKED)
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q tests/test_tidy.py tests/test_compose.py

format: install ## Format the code as `make check` wants it
	@$(BIN)/ruff check --fix $(CHECKED)
	@$(BIN)/ruff format $(CHECKED)

bench: install ## Run the benchmarks, or one: make bench ONLY=append_64
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(ARGS)

tour: install ## Walk through docs/tour.md on a fresh Aureus of its own, and show what each command prints
	@$(BIN)/python -m tests.support.tour docs/tour.md

verifier: install ## Write the stand-alone verifier, aureus_verify.py, again from infra/verifier/
	@$(BIN)/python -m infra.bundle_verifier

docs: install ## Write the generated documents again: events, OpenAPI, command line
	@$(BIN)/python -m api.reference

lock: install ## Pin requirements/*.in again, with hashes
	@scripts/lock.sh $(ARGS)

clean: ## Remove what make has made (not your data)
	rm -rf $(VENV) build aureus.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
