# make install   .venv with all that is needed
# make demo      phantom films -> trained networks -> read films -> report
# make test      lint, types, tests
# The last two set up .venv first; all they need is Python >= 3.11, make and git.

PYTHON ?= python3
# another pair, e.g. TORCH="torch==2.11.0 torchvision==0.26.0"; see README for CPU-only builds
TORCH ?= torch torchvision
BIN := .venv/bin

.PHONY: install demo test format clean

install: .venv/installed

demo: .venv/installed
	DEMO=demo ./run_experiments.sh
	$(BIN)/python scripts/evaluate_cohort.py --cohort demo/data/test --weights demo/runs --out demo/evaluation
	$(BIN)/deepknee read demo/data/test/films --weights demo/runs --out demo/report
	@echo "Open demo/report/report.html to see the films read; demo/evaluation holds the errors against the truth."

test: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than 3.11; say which to use: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip "setuptools<81" wheel
	$(BIN)/pip install $(TORCH)
	$(BIN)/pip install --no-build-isolation -r requirements.txt
	$(BIN)/pip install --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf .venv demo
