# What can be done here: `make demo` and `make test` do all their own set-up.

VENV ?= .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help

# Images often forbid bytecode files, to stay small. Without them each of the many processes of a run compiles all that
# it imports, and pytest rewrites every test file in each worker: a quarter of the time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo check test manifests clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

install: $(INSTALLED)  ## set up .venv, system packages included (quick when nothing changed)

$(INSTALLED): pyproject.toml constraints.txt scripts/setup.sh
	bash scripts/setup.sh "$(VENV)"

demo: $(INSTALLED)  ## watch the whole closed loop on a simulated fleet
	$(PYTHON) -m foresail demo

check: $(INSTALLED)  ## lint, format, types, layers
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -c 'import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())'

# Lines of policies and controller are counted by the tests that are about them. Simulated days, trainings and forecasts
# pass through most lines without looking at them, and take half as long when nobody counts.
COVERING := $(addprefix tests/,contracts controller kubernetes policies properties)
SPREAD := -n 3 --dist loadfile

# One thread per worker: workers with a thread pool each would fight over the same cores. One worker more than the two
# cores that this is meant for, since servers, browsers and databases are waited for; live tests mostly wait.
test: export OMP_NUM_THREADS = 1
test: check  ## set up, check, and run every test
	$(PYTHON) -m pytest $(SPREAD) $(COVERING) --cov --cov-report=
	$(PYTHON) -m pytest $(SPREAD) tests $(COVERING:%=--ignore=%) --ignore=tests/live
	$(PYTHON) -m pytest $(SPREAD) tests/live --cov --cov-append --cov-report=term

manifests: $(INSTALLED)  ## write deploy/manifests anew from the Helm chart
	$(PYTHON) scripts/manifests.py

clean:  ## remove .venv, caches and build output
	rm -rf "$(VENV)" build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
