# `make` alone lists the targets. Each makes .venv first if there is none, with the versions in constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
FASHION_MNIST := /usr/share/datasets/fashion-mnist

.DEFAULT_GOAL := help
export NO_MKDOCS_2_WARNING = 1
.PHONY: help demo test test-slow check bench bench-strategies bench-clients bench-compression bench-codes bench-secagg bench-audit bench-deployment chaos pictures docs data clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) data ## simulate 1,000 clients on real data; ends with a table and a report
	$(BIN)/fedeff simulate

test: $(INSTALLED) ## the fast tests, under 10 minutes on two cores
	$(BIN)/pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: $(INSTALLED) data ## the slow tests: convergence on real data, the wheel in an empty environment
	$(BIN)/pytest -m slow

check: $(INSTALLED) ## lint, format, strict types, import layers, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

bench: $(INSTALLED) data ## measure the engines side by side, write bench/results/engine.md
	$(BIN)/python bench/run_engine.py

bench-strategies: $(INSTALLED) data ## compare strategies and their cost, write bench/results/strateg*.md; resumes
	$(BIN)/python bench/run_strategies.py
	$(BIN)/python bench/run_strategy_cost.py

bench-clients: $(INSTALLED) data ## measure what algorithms at the clients bring, write bench/results/clients.md; resumes
	$(BIN)/python bench/run_clients.py

bench-compression: $(INSTALLED) data ## measure codecs, what they cost in accuracy, the planner; write bench/results/compression.md; resumes
	$(BIN)/python bench/run_compression.py

bench-codes: $(INSTALLED) data ## measure codes: latency, accuracy, real actors, slow clients; write bench/results/codes.md; resumes
	$(BIN)/python bench/run_codes.py

bench-secagg: $(INSTALLED) ## measure secure sums beside Flower's, write bench/results/secagg.md; resumes
	$(BIN)/python bench/run_secagg.py

bench-audit: $(INSTALLED) data ## measure the leakage audit beside breaching, write bench/results/audit.md; resumes
	$(BIN)/python bench/run_audit.py

bench-deployment: $(INSTALLED) data ## measure a deployment's rounds and traffic; write bench/results/deployment.md; resumes
	$(BIN)/python bench/run_deployment.py

chaos: $(INSTALLED) ## kill processes of a real site for 10 minutes, write bench/results/chaos.md
	PYTHONPATH=tests $(BIN)/python -m chaos.run_chaos

pictures: $(INSTALLED) ## draw what travels when under each strategy, for the documentation
	$(BIN)/python docs/travel_pictures.py

docs: $(INSTALLED) ## build the documentation into site/
	$(BIN)/mkdocs build --strict

data: ## install Debian's Fashion-MNIST where apt-get and root are at hand; never fails
	@if [ -d $(FASHION_MNIST) ]; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends dataset-fashion-mnist; } \
	    || echo "make data: could not install dataset-fashion-mnist; fedeff looks for other data"; \
	else echo "make data: $(FASHION_MNIST) is not there; fedeff looks for other data"; fi

clean: ## remove .venv, caches and built pages; runs/ stays
	rm -rf .venv site dist build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("fedeff needs Python 3.11 or newer, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "installing the versions of constraints.txt into .venv (minutes, the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
