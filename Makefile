VENV := .venv
BIN := $(VENV)/bin

CANDIDATES := python3.11 python3
SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)

OLDEST := .venv-oldest
OLDEST_COPY := build/oldest
# A python3.12 of pyenv's may be there and still not run by that name.
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
# The longest files first. Programs with sanitizers read nothing of PyTorch's: `make test` runs the same.
OLDEST_TESTS := $(addprefix tests/,kernels csrc graphs nn ops) -k 'not sanitizers and not on_the_host'
OLDEST_PYTEST = OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(OLDEST_COPY) ../../$(OLDEST)/bin/python -m pytest -rs
OLDEST_CANDIDATES := $(foreach version,3.12 3.14 3.13 3.11,python$(version) $(wildcard $(PYENV)/$(version).*/bin/python)) python3
OLDEST_PYTHON ?= $(shell for python in $(OLDEST_CANDIDATES); do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)

CREATED := $(VENV)/.created
BUILD_READY := $(VENV)/.build-ready
DEMO_READY := $(VENV)/.demo-ready
DEV_READY := $(VENV)/.dev-ready

PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
NATIVE_SOURCES := $(wildcard building/*.py csrc/*.* csrc/*/*.*)

.PHONY: help demo test native oldest lint format types layers check bench gpu clean
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: $(DEMO_READY) ## install what training needs, then train and report a small example in runs/demo
	$(BIN)/slimkern demo --out runs/demo

test: $(DEV_READY) ## run the whole test suite, a process for each core
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

native: $(DEV_READY) ## compile what has changed of csrc/, and stop at the first error
	SLIMKERN_BUILD=$${SLIMKERN_BUILD:-cpu} $(BIN)/python setup.py -q build_ext --inplace

oldest: $(OLDEST)/.ready ## the same for operators, layers and kernels, built and run with the oldest PyTorch, Triton and NumPy
	mkdir -p $(OLDEST_COPY)
	cd $(OLDEST_COPY) && rm -rf benchmarks building csrc slimkern tests
	cp -a benchmarks building csrc slimkern tests pyproject.toml setup.py README.md LICENSE $(OLDEST_COPY)
	rm -f $(OLDEST_COPY)/slimkern/*.so $(OLDEST_COPY)/slimkern/build_report.json
	cd $(OLDEST_COPY) && TORCH_CUDA_ARCH_LIST=9.0a ../../$(OLDEST)/bin/python setup.py -q build_ext --inplace
	cd $(OLDEST_COPY) && $(OLDEST_PYTEST) --numprocesses auto --dist loadfile --no-loadscope-reorder $(OLDEST_TESTS)
	cd $(OLDEST_COPY) && $(OLDEST_PYTEST) --collect-only -qq tests/gpu

lint: $(DEV_READY) ## ruff: errors, style, docstrings
	$(BIN)/ruff check

format: $(DEV_READY) ## let ruff lay out the code
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

types: $(DEV_READY) ## pyright on the package
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: $(DEV_READY) ## imports only point down
	$(BIN)/lint-imports

check: lint types layers ## lint, types and layers

bench: $(DEV_READY) ## run every benchmark; SAVE=--save stores the rows in benchmarks/results/
	@failed=; for file in $(wildcard benchmarks/bench_*.py); do \
		echo "$$file"; $(BIN)/python "$$file" $(SAVE) || failed="$$failed $$file"; done; \
		if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

gpu: $(DEV_READY) ## on a machine with a GPU: what is right and what is fast, into build/campaign, within eight minutes
	$(BIN)/python benchmarks/on_gpu.py

clean: ## remove the environment and the caches; runs/ and data/ stay
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(CREATED):
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' || { \
		echo 'slimkern needs Python 3.11 or newer. Tried: $(or $(PYTHON),$(CANDIDATES)).' \
			'Install it, or name it: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(OLDEST)/.ready: tests/oldest.txt building/requirements.txt
	@$(or $(OLDEST_PYTHON),false) -c '$(SUPPORTED)' || { echo 'no Python of $(OLDEST_CANDIDATES) runs' >&2; exit 1; }
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -qq --disable-pip-version-check $(addprefix --requirement ,$^)
	@touch $@

$(DEMO_READY): EXTRAS := train,plot
$(DEV_READY): EXTRAS := dev
$(DEMO_READY) $(DEV_READY): pyproject.toml setup.py $(NATIVE_SOURCES) | $(BUILD_READY)
	$(PIP_INSTALL) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

# The build needs torch as well: without isolation it takes the one that is installed anyway, instead of another download.
$(BUILD_READY): building/requirements.txt | $(CREATED)
	$(PIP_INSTALL) --requirement $<
	@touch $@
