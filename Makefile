# One command per chore; CI runs the same ones.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test test-long check format serve benchmark mutate chaos clean

run: $(VENV)/.installed            ## set everything up and run the pipeline on the default data
	assay run

test: $(VENV)/.installed-test      ## run the test suite
	pytest -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.installed-test ## run the long tests, which `make test` leaves out
	pytest -n 2 --dist load -m long

check: $(VENV)/.installed-test     ## lint, strict types, and which package may import which
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format: $(VENV)/.installed-test    ## code by ruff; the templates of `assay init` from the files that they copy
	ruff format .
	ruff check --fix .
	python -m assay.project.templates

serve: $(VENV)/.installed          ## serve the champion over HTTP
	assay serve

benchmark: $(VENV)/.installed-test ## measure detection and speed; needs the public sets (see docs/benchmarks/README.md)
	python benchmarks/detection.py
	python benchmarks/speed.py

mutate: $(VENV)/.installed-test    ## seeded small faults in the code that decides, and whether its unit tests notice
	python benchmarks/mutate.py

chaos: $(VENV)/.installed-test     ## kills at writes, full disks and other faults, and what the next command makes of them
	python benchmarks/chaos.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:                             ## remove the environment and local state; data, work and DVC's cache stay
	rm -rf $(VENV) .prefect .pytest_cache .mypy_cache .ruff_cache
