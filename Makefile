# Each target makes the environment by itself. PYTHON names an interpreter, 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test check quick docs bench dist sbom clean

run: $(READY)  ## the main job: compare all searchers on the embedded problem, examine the winners, report
	$(BIN)/bitcert run experiments/digits.yaml

# Two test processes share the cores: threads that wait do not spin. They and all that they start share bytecode: without it, each
# compiles the suite for itself.
test: $(READY)  ## everything that CI runs
	PYTHONDONTWRITEBYTECODE= $(MAKE) -j 2 check docs
	PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY)  ## format, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quick: check  ## without the tests that take more than ten seconds
	$(BIN)/python -m pytest -m "not slow"

docs: $(READY)  ## the site with the leaderboard, into build/docs: references generated, examples run, links checked, warnings as errors
	$(BIN)/sphinx-build -b html -W -n --keep-going -q -d build/doctrees docs build/docs
	$(BIN)/bitcert site build results/entries build/docs/leaderboard

PYTHONS ?= 3.11 3.12 3.13 3.14

dist: $(READY)  ## wheel and sdist, into build/dist: checked, and used in a clean environment for each of PYTHONS that is here
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python .ci/distribution.py build/dist $(PYTHONS) $(DIST_OPTIONS)

sbom: $(READY)  ## names, versions and licenses of what bitcert needs, as CycloneDX JSON, into build
	$(BIN)/python .ci/sbom.py build/bitcert-sbom.json

bench: $(READY)  ## speed, as ratios measured in one run
	for file in benchmarks/bench_*.py; do $(BIN)/python -m $$(echo $${file%.py} | tr / .) || exit 1; done

clean:  ## remove what the targets made, results of runs excepted
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "bitcert needs Python 3.11 or newer; name one with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev,docs]'
	touch $(READY)
