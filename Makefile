# `make test` and `make demo` set everything up on a machine with Python 3.11 or newer, pip and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup test quick faults faults-figures check format documents demo bench clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Make a virtual environment with everything in it

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ckptman needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# One more than there are cores: tests of sweeps and clusters wait for processes that they started.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# In memory, where there is room: they wait for the disk some ten thousand times.
ROOM := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 8000000 { print "TMPDIR=/dev/shm" }')

test: $(READY)  ## Run all tests
	$(ROOM) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

quick: $(READY)  ## Run the tests that take no more than seconds
	$(ROOM) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'not slow'

FAULTS := tests/ingestion/test_disturbed.py tests/ingestion/test_many_at_once.py tests/ingestion/test_readers_meanwhile.py tests/ingestion/test_swapped_folders.py tests/ingestion/test_changing_sources.py \
	tests/ingestion/test_mutated_documents.py tests/ingestion/test_block_snapshots.py tests/ingestion/test_full_disks.py tests/ingestion/test_power_cuts.py tests/cli/test_safe_output.py \
	tests/training/test_twice_at_once.py tests/training/test_disturbed_writes.py tests/checks/test_rot.py tests/fs/test_promise.py tests/cli/test_locales.py tests/cli/test_limits.py \
	tests/formats/test_mutations.py tests/formats/test_container_mutations.py tests/formats/test_torch_zip.py \
	tests/formats/test_hostile_reading.py tests/formats/test_pickle_reader.py tests/raw/test_beside.py tests/raw/test_tensorboard.py \
	tests/checks/test_advice.py tests/ingestion/test_odd_values.py tests/ingestion/test_foreign_names.py tests/cli/test_learnt_experiments.py \
	tests/documents/test_explorer_page.py::test_hostile_names_are_text tests/documents/test_explorer_page.py::test_what_a_page_does_wrong_is_heard

faults: $(READY)  ## Break every promise in every way, ten times what the tests do, and print a table of them
	CKPTMAN_SLICES=10 $(BIN)/python -m tests.helpers.promises .faults $(BIN)/python -m pytest -n auto --dist worksteal $(FAULTS)

faults-figures:  ## Put the table of the last `make faults` into docs/security.md
	$(BIN)/python -m tests.helpers.promises .faults --write docs/security.md

check: $(READY)  ## Lint, format, types, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin ckptman
	$(BIN)/ckptman report --project TASK_MAPPING.md --check
	$(BIN)/python -m tests.helpers.reference --check

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

documents: $(READY)  ## Write the generated documents
	$(BIN)/ckptman report --project TASK_MAPPING.md
	$(BIN)/python -m tests.helpers.reference

demo: $(READY)  ## Train a few short runs, ingest, validate, report
	PATH="$(abspath $(BIN)):$$PATH" sh tests/helpers/demo.sh demo

bench: $(READY)  ## Run the benchmarks, and put what they print into benchmarks/README.md
	for name in read_checkpoint train_step evaluation sweep scale; do \
	  echo "== $$name"; $(BIN)/python -m benchmarks.$$name --write || status=1; done; exit $${status:-0}

clean:  ## Remove what make made
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
