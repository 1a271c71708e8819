# Any target may be the first command on a fresh machine: it makes .venv and fills it.
# Needed are make, bash and Python 3.11 to 3.14.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.9
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed

# Where this is set, every process compiles torch and its kin anew, which more than doubles the time it takes to start.
unexport PYTHONDONTWRITEBYTECODE

# Workers with one thread each: more threads would only compete. Take more workers where there are more cores.
# A file stays with one worker, so that what its tests share is made once.
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# The versions for which every pinned library has a wheel.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))

# What audits cost and find needs a world and runs of the user (see each script). Words of one command are joined by colons.
BENCHMARKS := $(filter-out bench/audit_cost.py bench/audit_match.py bench/copies_planted.py,$(wildcard bench/*.py)) \
	bench/loss.py:--ranks:2 bench/loss.py:--rows:32768:--ways:blockwise:--rounds:1:--plain-at:4096:8192:16384

# Kept by `make clean`, and not part of the repository.
CLAIMS := runs/claims

# Versions as in tools/build_icons/README.md; the clip art comes with the Debian package openclipart-svg.
ICON_SOURCES := emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 @lobehub/fluent-emoji-3d@1.1.0 emojilib@4.0.3
CLIPART ?= /usr/share/openclipart/svg

.PHONY: help setup quickstart test quick lint format bench docs claims claims-painter world pins clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED) ## install everything into .venv

quickstart: setup ## learn to see from painted pictures, end to end, in minutes on a CPU; go on where it was stopped
	$(BIN)/stablerep quickstart

test: setup ## run the whole test suite (ARGS=tests/test_store.py: a part of it)
	$(TEST)

quick: setup ## run the tests that a developer runs at each change
	$(TEST) -m "not slow"

lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure speed, each beside the plain way; fails where a bar is missed
	@missed=; for script in $(BENCHMARKS); do \
		command="$${script//:/ }"; echo "$$command"; \
		$(BIN)/python $$command || missed="$$missed, $$command"; \
	done; \
	if [ -n "$$missed" ]; then echo "missed a bar, or failed: $${missed#, }" >&2; exit 1; fi

docs: setup ## build the documentation into site/
	$(BIN)/python -c 'import mkdocs, mkdocstrings_handlers.python' 2>/dev/null || $(BIN)/uv pip install --python $(BIN)/python \
		-c requirements.txt -e '.[docs]'
	DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

claims: setup ## the claims of StableRep on Fashion-MNIST, in a short version; goes on where it was stopped
	$(BIN)/stablerep world fashion --out $(CLAIMS)/fashion
	$(BIN)/python experiments/claims.py --world $(CLAIMS)/fashion --settings fashion --out $(CLAIMS) \
		--parts matrix headline mix --num-captions 1000 --headline 500 --times 1 2.5 --real-shares 0 0.5 1 \
		--num-steps 200 --num-train 2000 --seeds 0
	$(BIN)/python experiments/tables.py $(CLAIMS)/matrix.json $(CLAIMS)/headline.json $(CLAIMS)/mix.json

claims-painter: setup ## do painters learn better from painted pictures, in a short version; goes on where it was stopped
	$(BIN)/stablerep world fashion --out $(CLAIMS)/fashion
	$(BIN)/stablerep train supervised --recipe fashion --data.images $(CLAIMS)/fashion/images.lance --num-steps 600 \
		--out $(CLAIMS)/judge
	$(BIN)/python experiments/painter_claims.py --world $(CLAIMS)/fashion --settings fashion \
		--painter experiments/painter-small.toml --teacher fashion --judge $(CLAIMS)/judge --out $(CLAIMS)/painter \
		--arms real painted both 'painted + StableRep' --num-captions 250 1000 --num-steps 600 --num-points 6 \
		--encoder-steps 400 --num-judged 150 --num-train 3000 --seeds 0

world: setup ## build the icons corpus anew from its published sources and compare (needs npm, rsvg-convert, openclipart-svg)
	npm install --prefix build/icons --no-save --no-audit --no-fund --ignore-scripts $(ICON_SOURCES)
	$(BIN)/python -m tools.build_icons --npm build/icons/node_modules --clipart $(CLIPART) \
		--out build/icons/icons.parquet --cache build/icons/rendered
	cmp build/icons/icons.parquet src/stablerep/data/icons.parquet

pins: setup ## bring requirements.txt up to pyproject.toml (UPGRADE=--upgrade takes the newest versions)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 $(UPGRADE) \
		--no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.txt

clean: ## remove caches and builds; .venv and what runs wrote stay
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests tools bench experiments -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml requirements.txt
	@if ! $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null; then \
		for python in python3 python3.14 python3.13 python3.12 python3.11 none; do \
			if "$$python" -c '$(SUPPORTED)' 2>/dev/null; then break; fi; \
		done; \
		if [ "$$python" = none ]; then \
			echo "No Python 3.11 to 3.14 was found on the path; install one and run make again." >&2; exit 1; \
		fi; \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
			echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv." >&2; \
			exit 1; \
		fi; \
		"$$python" -m venv --clear .venv; \
	fi
	@if [ "$$($(BIN)/uv --version 2>/dev/null | cut -d ' ' -f 2)" != $(UV_VERSION) ]; then \
		$(BIN)/python -m ensurepip >/dev/null; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	fi
	@echo "Installing into .venv; the first time this fetches about 3 GB on Linux, where torch brings CUDA."
	$(BIN)/uv pip install --python $(BIN)/python --no-deps -r requirements.txt -e .
	@touch $@
