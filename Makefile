# make env     prepare .venv with the package and everything the checks need
# make test    every check: tests, ruff, mypy --strict
# make bench   the main job: the overhead of encryption on real input; ends with results/report.html
# make docs    the documentation site, in site/

PYTHON ?= python3
BIN := .venv/bin
RESULTS := $(foreach name,bench paths iv crash replay validation,results/$(name).json)
JOBS := $(shell nproc 2>/dev/null || echo 2)

.PHONY: env test bench docs clean

# Some hundred processes of the tests import Numba: 0.4 s each with its bytecode kept, 1 s without.
unexport PYTHONDONTWRITEBYTECODE

env: .venv/ready

# A Python without ensurepip (Debian's, without python3-venv) gets pip from the outer one.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv --clear .venv >/dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } || { \
	  echo "no way to make .venv: install python3-venv (apt-get install python3-venv) or pip"; exit 1; }
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

bench: env
	@mkdir -p results
	$(BIN)/mktme bench --json results/bench.json --csv results/bench.csv
	@echo "beside it, for the report: files on each path, IV schemes, power failures, the timing model"
	@$(BIN)/mktme bench --paths none,line,inline,bounce --size 16MiB --json results/paths.json >/dev/null
	@$(BIN)/mktme compare-iv --json results/iv.json >/dev/null
	@$(BIN)/mktme crash --json results/crash.json >/dev/null
	@$(BIN)/mktme replay ycsb_a:count=200000 --engine all --json results/replay.json >/dev/null
	@$(BIN)/mktme replay --validate --json results/validation.json >/dev/null
	$(BIN)/mktme report $(RESULTS) -o results/report.html

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv results site
