# The developer's commands. `make help` lists them.
#
# The first command makes a virtual environment in .venv and installs what it needs; a stamp file remembers that,
# so a later run starts at once until pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV ?= .venv
# More options for pip, such as an index that has a CPU build of torch (see constraints.txt).
PIP_FLAGS ?=
# More options for pytest, such as `-k packing -x`; with any, coverage is not measured.
PYTEST_FLAGS ?=
# Processes that share the tests; each computes on one thread.
TEST_WORKERS ?= 2
# Seconds for each target of the fuzzer, and the seed of its mutations: 0 for others each time.
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1
# Single benchmarks in place of the whole set, such as "benchmarks/attention.py benchmarks/layout.py".
BENCHMARKS ?=
# The environment of the peers whose packages do not go with ours (benchmarks/peers.txt).
PEERS ?= .venv-peers
# The environment of the libraries that make test-ecosystem runs.
ECOSYSTEM ?= .venv-ecosystem
# make gpu: where it computes, cuda or cpu (which tries the script itself), and more options of benchmarks/gpu.py.
DEVICE ?= cuda
GPU_FLAGS ?=

BIN := $(VENV)/bin
# The interpreter of make gpu, as it is: PYTHON where somebody named it, otherwise that of the virtual environment, and
# where there is none python3.
GPU_PYTHON ?= $(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON))
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
BENCH = $(OFFLINE) PEERS_PYTHON="$(PEERS)/bin/python" $(BIN)/python benchmarks
PIP_INSTALL = python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
INSTALL = $(BIN)/$(PIP_INSTALL)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installations into one environment must not run side by side.
.NOTPARALLEL:
.PHONY: help demo test test-ecosystem lint check docs fuzz soak audit bench bench-engines bench-peers bench-gpu gpu gpu-bundle clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo "  PYTHON=python3.12 picks the interpreter, PIP_FLAGS and PYTEST_FLAGS are handed on."
	@echo "  make gpu takes PYTHON as it is where it is named, otherwise that of $(VENV) where there is one, and hands"
	@echo "  GPU_FLAGS on, such as GPU_FLAGS='--parts encode train --limit 200'."

demo: $(VENV)/.installed-demo ## install, then fine-tune the packaged model on the sample pairs (about two minutes)
	@$(OFFLINE) $(BIN)/python examples/demo.py

test: $(VENV)/.installed-test ## install, then run the tests
ifeq ($(strip $(PYTEST_FLAGS)),)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal --cov --cov-report=
	@$(BIN)/python tests/branch_coverage.py
else
	$(OFFLINE) $(BIN)/python -m pytest $(PYTEST_FLAGS)
endif

test-ecosystem: $(ECOSYSTEM)/.installed ## install, then run other libraries on our model (docs/ecosystem.md; needs a registry)
	$(OFFLINE) PEERS_PYTHON="$${PEERS_PYTHON:-$(PEERS)/bin/python}" "$(ECOSYSTEM)/bin/python" -m pytest tests/ecosystem $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev ## install, then check style, format and types
	@status=0; set -x; $(BIN)/ruff check . || status=1; $(BIN)/ruff format --check . || status=1; \
	    $(BIN)/mypy sbert_ft || status=1; { set +x; } 2>/dev/null; exit $$status

fuzz: $(VENV)/.installed-fuzz ## install, then search each reader for an input that breaks it (FUZZ_SECONDS=60 each)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --all --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) --if-available

check: ## what continuous integration runs: test, fuzz, then lint
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory lint

soak: $(VENV)/.installed-test ## install, then kill runs at every write, encode for long, lose processes (over an hour)
	$(OFFLINE) $(BIN)/python tests/soak/crash_sweep.py --output benchmarks/results/soak-crash-sweep.json
	$(OFFLINE) $(BIN)/python tests/soak/load.py --output benchmarks/results/soak-load.json
	$(OFFLINE) $(BIN)/python tests/soak/lost_processes.py --output benchmarks/results/soak-lost-processes.json

docs: $(VENV)/.installed-test ## install, then write the documents' tables of keys and objectives from the code
	$(OFFLINE) $(BIN)/python docs/tables.py

audit: $(VENV)/.installed-test ## ask pip-audit's database for advisories on what is installed (needs the network)
	@"$(PYTHON)" -m venv "$(VENV)-audit"
	@"$(VENV)-audit/bin/python" -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) pip-audit
	@$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > "$(VENV)-audit/installed.txt"
	"$(VENV)-audit/bin/pip-audit" --strict --no-deps --disable-pip -r "$(VENV)-audit/installed.txt"

bench: $(VENV)/.installed-bench ## install, then run the benchmarks of a CPU (under 20 minutes; BENCHMARKS="file ...")
ifeq ($(strip $(BENCHMARKS)),)
	$(BENCH)/startup.py --rounds 3
	$(BENCH)/encode.py
	$(BENCH)/encode.py --isa avx2
	$(BENCH)/train.py --batch-sizes 16 64 --steps 30 10 --warm-up 3 --rounds 2
	$(BENCH)/train.py --batch-sizes 16 --steps 20 --warm-up 5 --rounds 2 --isa avx2
	$(BENCH)/pretrain.py --steps 16 --warm-up 4 --rounds 2
else
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(OFFLINE) PEERS_PYTHON="$(PEERS)/bin/python" $(BIN)/python "$$script"; done
endif
	$(BENCH)/tables.py

bench-engines: $(VENV)/.installed-bench ## ONNX Runtime and OpenVINO by sbert_ft, by others and called directly (half an hour)
	$(BENCH)/encode.py --engines
	$(BENCH)/encode.py --engines --isa avx2
	$(BENCH)/tables.py

bench-peers: $(PEERS)/.installed ## make the environment of the peers that run ONNX and OpenVINO, for make bench and make bench-engines

bench-gpu: $(VENV)/.installed-bench ## the same on a GPU (long; make gpu takes eight minutes)
	$(BENCH)/encode.py
	$(BENCH)/train.py
	$(BENCH)/train.py --model base --steps 60 30 15
	$(BENCH)/models.py "$(VENV)/bert-base"
	$(BENCH)/classify.py --task nsmc --model "$(VENV)/bert-base" --steps 60 --name classify-nsmc-base-gpu
	$(BENCH)/tables.py

gpu: ## check and measure on a GPU in eight minutes; installs nothing (DEVICE=cpu tries the script itself)
	@$(OFFLINE) "$(GPU_PYTHON)" benchmarks/gpu.py --device $(DEVICE) $(GPU_FLAGS)

gpu-bundle: $(VENV)/.installed-test ## install, then gather in .gpu-bundle/ what a bare machine lacks for make gpu
	@$(BIN)/python benchmarks/gpu_bundle.py

clean: ## remove the environment, caches and build files
	rm -rf "$(VENV)" "$(VENV)-audit" "$(PEERS)" "$(ECOSYSTEM)" .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist sbert_ft.egg-info
	find sbert_ft tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Pins change what is installed, so a stamp is older than its environment when either file is newer.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing sbert-ft with the '$*' extra into $(VENV) (minutes the first time, quiet while it works) ..."
	@$(INSTALL) --editable '.[$*]'
	@touch $@

# torch goes first, with the pin that has a CPU build: asked for by another package it brings CUDA.
$(PEERS)/.installed: benchmarks/peers.txt
	@echo "Installing the peers into $(PEERS) ..."
	@"$(PYTHON)" -m venv "$(PEERS)"
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) \
	    "$$(grep '^torch==' benchmarks/peers.txt)"
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -r benchmarks/peers.txt
	@touch $@

# Each library by itself: where one cannot be installed, its tests say so and the others run.
$(ECOSYSTEM)/.installed: pyproject.toml constraints.txt tests/ecosystem/requirements.txt
	@echo "Installing the libraries of docs/ecosystem.md into $(ECOSYSTEM) ..."
	@"$(PYTHON)" -m venv "$(ECOSYSTEM)"
	@"$(ECOSYSTEM)/bin/"$(PIP_INSTALL) --editable '.[test]'
	@for library in $$(sed 's/#.*//' tests/ecosystem/requirements.txt); do \
	    "$(ECOSYSTEM)/bin/"$(PIP_INSTALL) "$$library" || echo "$$library cannot be installed here: its tests are skipped."; \
	done
	@touch $@

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "'$(PYTHON)' was not found: install Python 3.10 or newer, or name one with PYTHON=/path/to/python3." >&2; \
	    exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "sbert-ft needs Python 3.10 or newer, '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1):" \
	         "name a newer one with PYTHON=/path/to/python3." >&2; \
	    exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' comes without the venv module: install it (Debian, Ubuntu: apt install python3-venv)." >&2; \
	    exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)"
	@touch $@
