# `make demo` and `make test` are all that a newcomer needs; both make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
ROUNDS ?= 30
SEEDS ?= 2000
FIRST ?= 0
.PHONY: demo test check fmt proto docs crash faults sim bench clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch .venv/ready

demo: .venv/ready
	$(BIN)/python examples/demo.py

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

test: check
	$(BIN)/pytest -q

fmt: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: .venv/ready
	$(BIN)/python proto/generate.py

docs: .venv/ready
	$(BIN)/python docs/generate.py

crash: .venv/ready
	$(BIN)/python -m pytest -q -s --timeout=0 tests/crash --rounds=$(ROUNDS)

faults: .venv/ready
	$(BIN)/python -m pytest -q -s --timeout=0 tests/rounds --faults=$(ROUNDS) $(FAULTS)

sim: .venv/ready
	cd tests && ../$(BIN)/python -m simulator.sweep --seeds=$(SEEDS) --first-seed=$(FIRST)

bench: .venv/ready
	$(BIN)/python -m bench

clean:
	rm -rf .venv .demo roost-data
