# The commands of the README and of CI. `make demo` and `make test` install what they need into .venv on first use.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One arithmetic thread per test process: two processes share the machine, and results do not depend on its size.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1

# Those that need no input of yours.
BENCHMARKS := extract_efficiency one_pass store_speed head_throughput audio_visual_events

.PHONY: demo test test-slow lint bench clean

demo: $(INSTALLED)
	$(BIN)/vidloc demo --out demo

test: lint
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadgroup

test-slow: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf demo build dist .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@
