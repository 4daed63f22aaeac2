# Everything runs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
DATA ?= elpv
BACKBONE ?= efficientnet_lite0
DEVICE ?= auto
HEAD ?= svm
BACKBONES ?= efficientnet_lite0,efficientnet_lite1
HEADS ?= svm,logreg,ridge

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUN := $(BIN)/python -m
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

ifneq ($(shell command -v uv 2>/dev/null),)
  MAKE_VENV := uv venv --quiet --python $(PYTHON) $(VENV)
  INSTALL := uv pip install --quiet --python $(BIN)/python
else
  MAKE_VENV := $(PYTHON) -m venv $(VENV)
  INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: help install features fit-svm fit-logreg fit test test-slow test-all test-gpu lint type format bench torture \
        ray-demo notebook compare elpv docs docs-build dist clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## put featx with the extras demo and dev into .venv

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(MAKE_VENV)
	@echo "installing featx and what it needs into $(VENV) (PyTorch is large; minutes, once)"
	@$(INSTALL) -e '.[demo,dev]'
	@touch $@

features: install  ## embed DATA with BACKBONE on DEVICE; what exists is reused
	@$(RUN) pipelines.features --data '$(DATA)' --backbone '$(BACKBONE)' --device '$(DEVICE)'

fit: install  ## fit HEAD on the features of DATA, evaluate, leave model and figures under data/
	@$(RUN) pipelines.fit --data '$(DATA)' --backbone '$(BACKBONE)' --device '$(DEVICE)' \
	    --head '$(HEAD)'

fit-svm: HEAD = svm
fit-svm: fit  ## the same with a linear SVM

fit-logreg: HEAD = logreg
fit-logreg: fit  ## the same with logistic regression

test: install  ## the fast tests
	@$(PYTEST) -m "not slow and not gpu"

test-slow: install  ## the slow tests
	@$(PYTEST) -m "slow and not gpu"

test-all: test test-slow  ## both

test-gpu: install  ## the tests that need a CUDA card, one after the other
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu

lint: install  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

type: install  ## mypy, strict, on featx/
	@$(BIN)/mypy

format: install  ## rewrite the code as ruff formats it
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

bench: install  ## speed beside the peers, in one sitting (minutes to an hour); DEVICE=cuda for a GPU
	@$(INSTALL) -e '.[demo,dev,bench]'
	@$(RUN) benchmarks.speed --device '$(DEVICE)'

ray-demo: install  ## a local Ray cluster of two workers, killed on the way, beside one process
	@$(RUN) pipelines.ray_demo

torture: install  ## 200 kills, 100 full disks, 20 pairs of writers, compared with a clean run
	@$(RUN) benchmarks.torture --kills 200 --full 100 --names 20

notebook: install  ## execute the notebook on real features and leave it as data/explore_features.html
	@$(RUN) pipelines.features --data '$(DATA)' --backbone '$(BACKBONE)' --device '$(DEVICE)'
	@FEATX_CACHE=$(CURDIR)/$$($(RUN) pipelines.features --data '$(DATA)' --backbone '$(BACKBONE)' --where) \
	    $(RUN) nbconvert --to html --execute --output-dir data --log-level WARN \
	    notebooks/explore_features.ipynb

compare: install  ## rank BACKBONES and HEADS on DATA, nested; table, CSV, JSON and plot under data/
	@$(RUN) pipelines.compare --data '$(DATA)' --backbones '$(BACKBONES)' --device '$(DEVICE)' \
	    --heads '$(HEADS)'

elpv: install  ## the protocol of ELPV's paper on frozen features, beside its figures (up to an hour)
	@$(RUN) pipelines.elpv_protocol

docs: install  ## build the documentation site, build/site/index.html; a warning is an error
	@$(INSTALL) -e '.[docs]'
	@$(MAKE) --no-print-directory docs-build
	@echo "build/site/index.html; to search in it: python -m http.server -d build/site"

docs-build:
	@$(BIN)/python docs/commands_page.py build/commands.md
	@$(RUN) zensical build --strict --clean

dist: install  ## build the wheel and the source archive
	@$(RUN) build --outdir dist .

clean:  ## remove what the tools leave behind; .venv and data/ stay
	@rm -rf dist build .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
