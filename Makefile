# Everything runs in .venv, which the first target that needs it makes from PYTHON and the pinned
# packages of requirements/. Say e.g. `make test PYTHON=python3.12` to choose another Python.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
OUT ?= demo

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --no-compile --no-deps --require-hashes
PINS := requirements/build.txt requirements/dev.txt
SKY := $(VENV)-sky

# MediaPipe's model is taken from here, where the folder exists, instead of being downloaded.
ifneq ($(wildcard ../shared/models),)
export FER_JAX_MODELS ?= $(abspath ../shared/models)
endif

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-exhaustive lint format reproduce plan bench bench-gpu lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

venv: $(VENV)/.project  ## make .venv: everything that demo, tests and lint need

$(VENV)/.packages: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is Python {sys.version.split()[0]}; FER-JAX needs 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) --requirement requirements/build.txt
	$(INSTALL) --no-build-isolation --use-pep517 --requirement requirements/dev.txt
	@touch $@

$(VENV)/.project: $(VENV)/.packages pyproject.toml
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv  ## a corpus of video files, a recogniser trained on it and its report, in OUT
	$(BIN)/fer-jax demo $(OUT)

reproduce: venv  ## every paper's tables on small generated corpora, into reproduction/
	$(BIN)/fer-jax reproduce all --generated

plan: venv  ## every config on a topology of each TPU generation, into results/; goes on where it stopped
	$(BIN)/python -m benchmarks.tpu_compile --topologies v4:2x2x1,v5e:2x2,v5p:2x2x1,v6e:2x2 \
	  --precisions bfloat16 --out results/tpu_compile.md

test: venv  ## the test suite, on JOBS processes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-exhaustive: venv $(SKY)/bin/only/sky  ## the long tests that `make test` leaves out
	PATH="$(abspath $(SKY))/bin/only:$$PATH" $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m exhaustive

# SkyPilot reads its files in an environment of its own: its pins and ours do not agree.
$(SKY)/bin/only/sky: requirements/sky.txt
	$(PYTHON) -m venv --clear $(SKY)
	$(SKY)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --require-hashes --requirement requirements/sky.txt
	@mkdir -p $(@D) && ln -sf ../sky $@

lint: venv  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: venv  ## rewrite what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# PyTorch is installed for the benchmarks alone: away from a CPU-only wheel it is gigabytes.
bench: venv  ## side by side with PyTorch, Keras, TensorFlow and others on the CPU, into bench-results/
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install --quiet 'torch==2.13.0'
	@$(BIN)/fer-jax bench

bench-gpu: venv  ## the same on this machine's GPU
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install --quiet 'torch==2.13.0'
	@$(BIN)/fer-jax bench --gpu

lock: venv  ## refresh the pins of requirements/ (UPGRADE=--upgrade for the newest)
	@$(BIN)/python -c 'import uv' 2>/dev/null || $(PIP) install --quiet uv
	$(LOCK) requirements/build.in --output-file requirements/build.txt
	$(LOCK) requirements/sky.in --output-file requirements/sky.txt
	$(LOCK) pyproject.toml --extra test --constraint requirements/build.txt --output-file requirements/dev.txt
	$(LOCK) pyproject.toml --constraint requirements/dev.txt --output-file requirements/base.txt
	$(LOCK) pyproject.toml --extra cloud --extra cuda12 --extra sweep --extra track --constraint requirements/dev.txt --output-file requirements/gpu.txt
	$(LOCK) pyproject.toml --extra cloud --extra tpu --extra track --constraint requirements/dev.txt --output-file requirements/tpu.txt
	$(LOCK) pyproject.toml --extra cloud --extra preprocess --extra ray --constraint requirements/dev.txt --output-file requirements/cluster.txt

# One set of pins for every Python and platform, so that all of them run what the tests ran.
LOCK = $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 \
  --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-annotate --no-header $(UPGRADE)

clean:  ## remove .venv, caches and what demo and bench wrote
	rm -rf $(VENV) $(SKY) .pytest_cache .ruff_cache build dist $(OUT) bench-results reproduction
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
