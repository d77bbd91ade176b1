# `make help` lists what there is. Everything needs only git, make and Python 3.11 or newer.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCE ?= simulator
PARAMS ?=
USECASE ?=

export UV_PYTHON_DOWNLOADS := never
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export BENTOML_DO_NOT_TRACK := true
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run test quick replaceability check fix notebooks lab docs serve bench lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo; echo "  make run SOURCE=payments.parquet PARAMS='-p cut=2018-08-08'"
	@echo "  make run USECASE=shop.bookings SOURCE=bookings.parquet"

$(VENV)/.ready: requirements.txt requirements-uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one with make PYTHON=python3.x")'
	@echo "setting up $(VENV) (about 2 GB) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

setup: $(VENV)/.ready ## the environment, from the hash-pinned lock

run: setup ## the whole flow, of USECASE=name, on SOURCE=file; the report is in runs/latest
	@$(if $(USECASE),MLKIT_USECASE=$(USECASE)) mlkit run --source $(SOURCE) $(PARAMS)

test: setup check ## every test
	@python -m pytest -n 2 --dist loadfile tests

quick: setup ## the tests that need neither service nor pipeline
	@python -m pytest -n 2 --dist loadfile tests -m "not service and not pipeline"

replaceability: setup ## every model in the place of every other, under load (an hour)
	@MLKIT_REPLACEABILITY=long python -m pytest -q tests/pipeline/test_replaceable.py

check: setup ## linters, types, notebooks clean and in step with mlkit/
	@ruff check nbs pipelines mlkit tests docs benchmarks tools
	@ruff format --check --quiet nbs pipelines tests docs benchmarks tools
	@mypy
	@python tools/in_step.py
	@python tools/readable.py

fix: setup ## format, export notebooks to mlkit/, clean them
	@ruff check --quiet --select I001 --fix nbs pipelines tests docs benchmarks tools
	@ruff format --quiet nbs pipelines tests docs benchmarks tools
	@nbdev-export
	@nbdev-clean

notebooks: setup ## execute every notebook in nbs/ and keep its outputs
	@python tools/execute.py

lab: setup ## JupyterLab on nbs/
	@jupyter lab --ip 127.0.0.1 nbs

docs: setup ## the docs site, in site/
	@python docs/build.py

serve: setup ## the champion of the last run, on http://127.0.0.1:3000
	@mlkit serve

bench: setup ## the benchmarks; results in benchmarks/results/
	@python benchmarks/run.py

lock: setup ## renew requirements*.txt from pyproject.toml
	@uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --upgrade -o requirements.txt
	@uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet -c requirements.txt -o requirements-serving.txt

clean: ## remove data, runs and the site; the environment stays
	@rm -rf data runs release site
