# make demo | test | check | bench | slow | results [only=CLAIM]: each does its own set-up on a fresh machine.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROJECTS := . plugins/diffusion plugins/lvlm plugins/shapes plugins/video
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test check bench slow results clean

setup: $(READY)

$(READY): constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt \
		-e '.[test]' $(foreach project,$(filter-out .,$(PROJECTS)),-e $(project))
	touch $@

demo: $(READY)
	$(BIN)/mmalign train configs/quickstart.yaml name=quickstart-$$(date +%Y%m%d-%H%M%S)

test: $(READY)
	$(BIN)/python -m pytest

slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/budgets.py

bench: $(READY)
	$(BIN)/python tests/benchmarks/run.py

results: $(READY)
	$(BIN)/python -m docs.results_table $(if $(only),--only $(only))

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
