# Suanli. `make` lists the targets; `make run` is the place to start.
# Needs Python >= 3.11 with its venv module, and make; everything else is installed into .venv and .tools.

PYTHON   ?= python3
VENV     := .venv
PY       := $(VENV)/bin/python
SCENARIO ?= songjiang-s
ENGINE   ?= ray

# one worker per core; tests of one xdist_group (one Ray, one server) share a worker
PYTEST   := $(PY) -m pytest -q -n auto --dist loadgroup
# `check` runs these; `test` runs all of them
FAST     := tests/unit
ALL      := $(wildcard tests/unit tests/property tests/contract tests/integration tests/e2e tests/golden \
              tests/kubernetes tests/console)
# keep the output of parallel steps apart where make knows how
SYNC     := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
BUF      := $(VENV)/bin/buf
PROTOS   := protos/suanli

.DEFAULT_GOAL := help
.PHONY: help run dev check test format protos client protos-accept lock goldens bench-smoke tools chart-test chart-docs \
        kind-up kind-down clean env-run env-dev check-style check-types check-walls check-protos check-unit

help: ## list the targets
	@echo "make TARGET   (SCENARIO=$(SCENARIO) ENGINE=$(ENGINE) PYTHON=$(PYTHON))"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

run: env-run ## one day of SCENARIO in virtual time on ENGINE (ray or local), with its report
	@$(VENV)/bin/suanli demo $(SCENARIO) --engine $(ENGINE)

dev: env-run ## service, planner and simulated sites in real time, to try client and command line
	@$(VENV)/bin/suanli dev $(SCENARIO) --engine $(ENGINE)

check: env-dev ## within a minute: format, lint, types, import walls, protos, unit tests
	@$(MAKE) --no-print-directory --keep-going -j2 $(SYNC) check-types check-style check-walls check-protos check-unit

test: check tools ## check, and property, contract, integration, end-to-end, golden and chart tests
	$(PYTEST) $(filter-out $(FAST),$(ALL))

format: env-dev ## put code and protos into the project's form
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	$(BUF) format -w --path $(PROTOS)

protos: env-dev ## regenerate suanli/v1 from protos/
	$(PY) tools/gen_protos.py

client: env-dev ## make the synchronous client anew from the asyncio one
	$(PY) tools/gen_sync_client.py

protos-accept: env-dev ## make today's protos the ones that later changes must stay compatible with
	$(BUF) build --path $(PROTOS) --exclude-source-info -o protos/baseline.binpb

lock: env-dev ## write requirements*.lock anew (UPGRADE=1 looks for newer versions)
	tools/lock.sh $(if $(UPGRADE),--upgrade)

goldens: env-dev tools ## rewrite the golden files; review them as a diff
	$(PY) -m pytest -q --update-goldens tests/golden tests/kubernetes

bench-smoke: env-dev ## every benchmark once at its smallest size, correctness only
	$(PY) -m benchmarks.smoke

tools: env-run ## fetch helm and kubectl into .tools (Linux on x86-64)
	@$(PY) tools/fetch_kubernetes_tools.py

chart-test: env-dev tools ## lint, render and validate the Helm chart
	$(PYTEST) tests/kubernetes

chart-docs: env-dev ## rewrite the table of values in the chart's README
	$(PY) tools/chart_readme.py

kind-up: tools ## build the image, start a kind cluster, install the chart and smoke-test it
	@deploy/kind/up.sh

kind-down: ## delete that kind cluster
	@deploy/kind/down.sh

clean: ## remove what was built, cached or run; keeps .venv and .tools
	rm -rf build dist runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

env-run env-dev:
	@tools/check_python.sh $(PYTHON)
	@$(PYTHON) tools/ensure_env.py $(@:env-%=%) $(VENV)

check-style:
	@$(PY) -m ruff format --check --quiet --output-format concise . || { echo "not formatted: make format" >&2; exit 1; }
	@$(PY) -m ruff check --quiet --output-format concise .
	@$(PY) tools/gen_sync_client.py --check

check-types:
	@$(PY) -m mypy

check-walls:
	@$(VENV)/bin/lint-imports --no-logo || { echo "a wall is crossed: see [tool.importlinter] in pyproject.toml" >&2; exit 1; }

check-protos:
	@$(PY) tools/gen_protos.py --check
	@$(BUF) format --diff --exit-code --path $(PROTOS)
	@$(BUF) lint
	@$(BUF) breaking protos --against protos/baseline.binpb

check-unit:
	@$(PYTEST) $(FAST)
