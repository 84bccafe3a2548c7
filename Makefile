# Khata: `make help` lists the targets. Only Python 3.11+, Java 17+ with Maven, and PostgreSQL 15+ are needed.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check up down bench bench-ingest bench-aggregator chaos

# uv from the machine, else a private one made by pip.
UV := $(shell command -v uv 2>/dev/null || echo .tools/uv/bin/uv)
RUN := $(UV) run --locked --quiet --all-extras

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.tools/uv/bin/uv:
	python3 -m venv .tools/uv
	.tools/uv/bin/python -m pip install --quiet uv

setup: $(filter .tools/%,$(UV)) ## install what the lock names
	@$(UV) sync --locked --quiet --all-extras

demo: setup ## the whole main job, from events to a paid, proven invoice
	@$(RUN) khata demo $(ARGS)

test: setup ## all tests but the long ones (real Kafka and Postgres)
	@$(MAKE) --no-print-directory check
	$(RUN) pytest -m "not chaos" -n 3 --dist loadfile $(ARGS)

check: setup ## format, lint, types, architecture
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports

up: setup ## leave the product running; prints addresses, a key and a curl line
	@$(RUN) khata dev --detach

down: setup ## end what `make up` started; the data stays
	@$(RUN) khata dev stop

bench: setup ## measure the event path; prints each figure beside a limit of the same run
	$(RUN) python -m benchmarks $(ARGS)

bench-ingest: setup ## the doors, the spool and the key check (needs wrk)
	$(RUN) python -m benchmarks ingest

bench-aggregator: setup ## from the log to windows
	$(RUN) python -m benchmarks aggregator

chaos: setup ## the long fault runs
	$(RUN) pytest -m chaos --timeout=3600 $(ARGS)
