# make demo · test · lint · bench · reproduce · claims · pocket: each sets up what it needs in .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RESULTS ?= results
LISTS := strings synthetic german describe answer
# one thread a test process: two processes with two threads each starve one another on two cores
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test lint bench reproduce claims pocket clean

demo: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m fewhertz.demo

test: $(READY)
	$(TEST_ENV) $(BIN)/pytest -q -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python bench/methods.py --out results/bench/methods.json
	HF_HUB_OFFLINE=1 $(BIN)/python bench/prefill.py --out results/bench/prefill.json

# docs/claims.md and its pictures, from result files
reproduce: $(READY)
	$(BIN)/python -m recipes.claims write --results $(RESULTS)

# the cells themselves, from the model and ../shared/data: RESULTS=out/again measures all of them, results only what lacks
claims: $(READY)
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 325 --lists $(LISTS) --out out/test
	$(BIN)/python -m recipes.claims run --results $(RESULTS)

# Debian's flite adds its voices, where it is installed; SIZE=tiny for a run of minutes
pocket: $(READY)
	$(BIN)/python -m recipes.pocket $(if $(SIZE),--size $(SIZE))

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fewhertz needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	# first and by exact version: a looser range pulls gigabytes of CUDA
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist out
