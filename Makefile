# Two commands for a newcomer: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
CORES ?= all

.PHONY: help env demo test test-slow test-slurm test-browser test-crash bench-simulate bench-data bench-evaluate bench-train bench-generate bench-gpu bench-scale study study-perturbations study-reliability check format clean clean-results

help:
	@echo "make demo    real Geant4 showers through the whole chain, to results/demo/report.html (minutes)"
	@echo "make test    the test-suite (minutes)"
	@echo "make env     the environment in $(VENV), from requirements.lock"
	@echo "make check   formatting, types, lint and tests, as in continuous integration"
	@echo "make clean   remove results, data made here, logs and caches (raw files of your own stay)"

env: $(VENV)/.complete

$(VENV)/.complete: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: env
	@caloforge unlock
	snakemake --cores $(CORES)
	@echo; echo "Report: $(CURDIR)/results/demo/report.html"

test: env
	pytest -n 2 --dist loadfile

test-slow: env
	pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

test-slurm: env
	pytest -m slurm tests/slurm

test-crash: env
	python tests/crash_matrix.py

test-browser: env
	pytest -m browser tests/test_report_page.py

bench-simulate: env
	python benchmarks/simulate.py

bench-data: env
	python benchmarks/data.py

bench-train: env
	python benchmarks/train.py

bench-evaluate: env
	python benchmarks/evaluate.py

bench-generate: env
	@caloforge unlock
	snakemake --cores $(CORES) --configfile config/experiments/front.yaml
	python benchmarks/generate.py

bench-gpu: env
	python benchmarks/gpu_train.py

study-reliability: env
	python benchmarks/reliability.py

bench-scale: env
	python benchmarks/scale.py

study: env  # STUDY=masking_ratio, or another of config/experiments/
	@caloforge unlock
	snakemake --cores $(CORES) --configfile config/experiments/$(STUDY).yaml
	python benchmarks/studies.py $(STUDY)

study-perturbations: env
	@caloforge unlock
	snakemake --cores $(CORES) --configfile config/experiments/perturbations.yaml
	python benchmarks/perturbations.py

check: env
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	pytest -n 2 --dist loadfile

format: env
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

clean-results:
	rm -rf results logs

clean: clean-results
	rm -rf data/store data/preprocessed data/fingerprints.json data/duplicates.json .snakemake .pytest_cache .mypy_cache .ruff_cache
	-[ -d data/raw ] && find data/raw -name '*.h5.json' -print0 | while IFS= read -r -d '' f; do rm -f "$${f%.json}" "$$f"; done
