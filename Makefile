# The two commands a new user needs are `make demo` and `make test`; the rest is for changing things.
# Every target sets up what it needs first. PYTHON=... chooses the interpreter (3.11 or newer).

.PHONY: help demo test test-lowest test-pythons bench chaos lint reference format setup web servers requirements clean
.DEFAULT_GOAL := help

PY := .venv/bin/python
ARGS ?=

help:
	@echo 'make demo          run the whole system here and watch an avatar session live'
	@echo '                   ARGS="--once --report FILE", ARGS=--real, AUDIO=speech.wav'
	@echo 'make test          run every test; ARGS=--fast: those that need no server;'
	@echo '                   ARGS="tests/liveavatar_lite -k pacer": some'
	@echo 'make test-lowest   the tests without servers, with the lowest versions pyproject.toml admits'
	@echo 'make test-pythons  the same with the pinned versions, on each Python found (PYTHONS="a b")'
	@echo 'make lint          formatting, lint, types, import rules, documentation'
	@echo 'make bench         measure this machine: one table (ARGS="--only encode,start --quick")'
	@echo 'make chaos         break real processes and check what is billed and heard (half an hour);'
	@echo '                   ARGS="--rounds N --only FAULT,... --layout all|split --report FILE --seed S"'
	@echo 'make reference     write the reference pages that come from the code (settings, CLI, errors)'
	@echo 'make format        let ruff format and fix what it can'
	@echo 'make setup         only the virtual environment'
	@echo "make web           only the packages of the viewer's page (needs npm)"
	@echo 'make servers       only Temporal and LiveKit'
	@echo 'make requirements  pin again what pyproject.toml asks for (UPGRADE=1: newest versions)'
	@echo 'make clean         remove what was made here; built servers stay in your cache folder'

demo: setup web
	@$(PY) -m demo $(ARGS)

test: setup web $(if $(findstring --fast,$(ARGS)),,servers)
	@$(PY) -m pytest $(ARGS)

test-lowest:
	@sh deploy/test-versions.sh lowest

test-pythons:
	@sh deploy/test-versions.sh pythons

bench: setup servers
	@$(PY) -m bench $(ARGS)

chaos: setup servers
	@$(PY) -m chaos $(ARGS)

lint: setup
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo
	@mkdir -p .run
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --site-dir .site >.run/docs.log 2>&1 \
	  || { cat .run/docs.log >&2; exit 1; }

reference: setup
	@$(PY) -m docs.generate

format: setup
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

setup:
	@sh deploy/local/setup.sh python

web:
	@sh deploy/local/setup.sh web

servers: setup
	@$(PY) -m deploy.local.binaries

requirements:
	@sh deploy/local/setup.sh requirements

clean:
	rm -rf .venv .run .demo .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .site \
	  dist viewer/static/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
