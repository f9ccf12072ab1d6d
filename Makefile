# make env     prepare .venv with the package and everything the checks need
# make test    every check: tests, ruff, mypy --strict
# make bench   the main job: the overhead of encryption on real input

PYTHON ?= python3
BIN := .venv/bin
JOBS := $(shell nproc 2>/dev/null || echo 2)

.PHONY: env test bench clean

env: .venv/ready

# A Python without ensurepip (Debian's, without python3-venv) gets pip from the outer one.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv --clear .venv >/dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } || { \
	  echo "no way to make .venv: install python3-venv (apt-get install python3-venv) or pip"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n $(JOBS)

bench: env
	@mkdir -p results
	$(BIN)/mktme bench --json results/bench.json --csv results/bench.csv

clean:
	rm -rf .venv results
