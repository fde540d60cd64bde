# Everything a person or CI does here. Needs only Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOSPITAL_DATA_DIR ?= data
# A worker for each core; a file's tests share its fixtures.
PARALLEL ?= -n auto --dist loadfile --no-loadscope-reorder
export HOSPITAL_DATA_DIR

.PHONY: help install demo dev spark-cluster bench test test-slow test-nightly test-all torture lint types floors check docs requirements audit sbom clean

help:
	@echo "make demo      generate a hospital network, build every table, run every check"
	@echo "make dev       open the Dagster UI over the same data"
	@echo "make spark-cluster  a Spark master and two workers on this machine, until Ctrl-C"
	@echo "make test      fast tests; make test-slow the slow ones; make test-all both; .ci/run what CI runs"
	@echo "make bench     how fast it is beside a hand-written script, written to docs/performance.md"
	@echo "make check     lint, types, import rules (make floors), and whether generated docs are up to date"
	@echo "make audit     known vulnerabilities of the pinned packages; make sbom writes build/sbom.json"
	@echo "make docs      write the generated docs"

# Bytecode is compiled at installation: without it every run process starts two to three times slower.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --editable .
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m compileall -q -j 0 $(VENV)/lib hospital_assets || true
	@touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/hospital simulate
	$(BIN)/hospital build
	$(BIN)/hospital report quality
	$(BIN)/hospital key create --if-missing

dev: install
	$(BIN)/hospital dev

# What it costs beside a hand-written script, on an idle machine; a quarter of an hour.
bench: install
	$(BIN)/python benchmarks/bench.py --into docs/performance.md

# Java 17 or newer has to be there.
spark-cluster: install
	$(BIN)/python -m hospital_assets.spark.cluster

# Compiled test files are kept: collecting them takes half as long the next time.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

test: install
	$(PYTEST) $(PARALLEL) -m "not slow and not nightly and not torture"

test-slow: install
	$(PYTEST) $(PARALLEL) -m "slow and not nightly and not torture"

test-nightly: install
	$(PYTEST) $(PARALLEL) -m "nightly and not torture"

test-all: test test-slow test-nightly

torture: install
	$(PYTEST) -m torture --timeout 0 -s

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Of the benchmarks, whether the names and arguments that they use are still there.
LOOSE = arg-type assignment call-overload list-item no-any-return no-untyped-call operator return-value union-attr misc
types: install
	$(BIN)/mypy
	$(BIN)/mypy benchmarks --follow-imports=silent $(addprefix --disable-error-code=,$(LOOSE))

floors: install
	$(BIN)/lint-imports

check: lint types floors
	$(BIN)/hospital docs --check

docs: install
	$(BIN)/hospital docs

requirements:
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --extra dev --strip-extras --no-emit-index-url \
		--no-emit-find-links --no-header --annotation-style line --output-file requirements.txt pyproject.toml

# Tools of their own environment: they are about the pinned set, not of it.
build/tools/.installed:
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet 'pip-audit>=2.10,<3' 'cyclonedx-bom>=7,<8'
	@touch $@

audit: build/tools/.installed
	build/tools/bin/pip-audit --no-deps --disable-pip --requirement requirements.txt

sbom: build/tools/.installed
	build/tools/bin/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json

clean:
	rm -rf $(VENV) build *.egg-info
