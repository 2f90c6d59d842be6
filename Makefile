# egress-xds. `make` or `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first Python of at least 3.11 on PATH; `make PYTHON=…` takes another.
SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(SUPPORTED)' 2>/dev/null && { echo "$$p"; break; }; done)
UV ?= uv
OUTPUT ?= full

VENV := .venv
BIN := $(VENV)/bin
ROOMS_0_TO_4 := xds/catalogue/*,xds/diagnostics.py,xds/errors.py,xds/names.py,xds/settings.py,xds/flags.py,xds/facts.py,xds/dialects/*,xds/policy/*,$\
	xds/snapshot.py,xds/resources.py,xds/compile/*,xds/explain/*,xds/importers/*,xds/injection/*,xds/bootstrap.py,xds/capture/*,xds/capture.py,xds/render/*,xds/trust.py,$\
	xds/protocol/*,xds/cache.py,xds/clients.py,xds/workloads.py
TYPED = $(wildcard xds tests) $(if $(wildcard bench/*.py),bench)
PROTOS = $(patsubst protos/egress_xds/%,xds/gen/%,$(wildcard protos/egress_xds/*.proto))

# A stamp's name holds the hash of everything that would change what it stands for, so that an
# environment is made again exactly when that changes, whatever a checkout does to modification times.
hash = $(shell { cat $(1) 2>/dev/null; $(PYTHON) -VV 2>/dev/null; echo $(CURDIR); } | sha256sum | cut -c1-16)
MADE := $(VENV)/.made-$(call hash,)
DEMO := $(VENV)/.demo-$(call hash,requirements/demo.txt pyproject.toml)
DEV := $(VENV)/.dev-$(call hash,requirements/dev.txt pyproject.toml)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | sort | expand -t 16

# ------------------------------------------------------------------------------------- environments

# $(1): the pins to install. Hashes make the index that a file comes from irrelevant.
define install
	echo "→ installing $$(grep -c == $(1)) pinned packages from $(1)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r $(1)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
endef

$(MADE):
	@test -n '$(PYTHON)' || { echo 'No Python of at least 3.11 is on PATH; try: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -c '$(SUPPORTED)' || { echo '$(PYTHON) is older than 3.11' >&2; exit 1; }
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '$(PYTHON) can make no virtual environment; on Debian: apt-get install python3-venv' >&2; exit 1; }
	echo "→ making $(VENV) with $$($(PYTHON) -V)"
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(DEMO): | $(MADE)
	@$(call install,requirements/demo.txt)
	rm -f $(VENV)/.demo-*
	touch $@

# The development pins are the demo's and more, so both stamps hold afterwards.
$(DEV): | $(MADE)
	@$(call install,requirements/dev.txt)
	rm -f $(VENV)/.demo-* $(VENV)/.dev-*
	touch $(DEMO) $@

# ------------------------------------------------------------------------------------------ to run

.PHONY: demo
demo: $(DEMO) ## show the main job: proxy, control plane, Envoy, an application without proxy settings
	@exec $(BIN)/xds demo $(ARGS)

.PHONY: bench
bench: $(DEV) ## measure what the size of a policy costs, and the data path beside its rivals
	@exec $(BIN)/python bench/run.py $(ARGS)

.PHONY: image
image: ## build the images of the control plane and of the capture step (needs docker)
	@epoch=$$(git log -1 --format=%ct)
	for target in control-plane init; do
		name=egress-xds$$( [[ $$target == init ]] && echo -init || true )
		docker build --build-arg SOURCE_DATE_EPOCH=$$epoch --build-arg REVISION=$$(git rev-parse HEAD) \
			--target $$target --tag $$name:0.1.0 .
	done

# ----------------------------------------------------------------------------------------- to prove

.PHONY: test
test: $(DEV) ## run every test, with branch coverage and its thresholds
	@$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)
	echo '→ coverage of rooms 0-4'
	$(BIN)/python -m coverage report --fail-under=95 --include='$(ROOMS_0_TO_4)'

.PHONY: test-cluster
test-cluster: need-kubeconfig $(DEV) ## run the tests of a real API server, as the administrator of KUBECONFIG
	@exec $(BIN)/python -m pytest tests/cluster $(ARGS)

.PHONY: need-kubeconfig
need-kubeconfig:
	@test -f "$${KUBECONFIG:-}" || {
		echo 'KUBECONFIG must name one file: the kubeconfig of an administrator of a test cluster' >&2
		exit 2
	}

.PHONY: check
check: check-format check-lint check-types check-rooms check-proto check-words ## run every static gate

.PHONY: check-format
check-format: $(DEV)
	@echo '→ format'
	$(BIN)/ruff format --check --quiet .

.PHONY: check-lint
check-lint: $(DEV)
	@echo '→ lint'
	$(BIN)/ruff check --quiet --output-format $(OUTPUT) .

.PHONY: check-types
check-types: $(DEV)
	@echo '→ types'
	$(BIN)/mypy --no-error-summary $(TYPED)

.PHONY: check-rooms
check-rooms: $(DEV)
	@echo '→ rooms'
	said=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$said"; exit 1; }

# $(1): the directory below which xds/gen/ is written. The virtual path gives the modules their real names.
generate = $(BIN)/python -m grpc_tools.protoc -I xds/gen=protos/egress_xds --python_out=$(1) --pyi_out=$(1) $(PROTOS)

.PHONY: proto
proto: $(DEV) ## write xds/gen/ anew from protos/
	@$(call generate,.)

.PHONY: check-proto
check-proto: $(DEV)
	@echo '→ generated code'
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT
	$(call generate,"$$scratch")
	for file in $$(cd "$$scratch" && ls xds/gen/*); do
		diff -q "$$file" "$$scratch/$$file" > /dev/null || { echo "$$file is stale; run: make proto" >&2; exit 1; }
	done

# An address of a package index or a path of one machine has no place in the tree. The brackets keep
# the patterns from matching this file.
INDEX_WORDS := index[-_]url|find[-_]links|trusted[-_]host
MACHINE_PATHS := (^|[^A-Za-z0-9_.])/(root|home|Users|work)/[A-Za-z0-9._-]

.PHONY: check-words
check-words:
	@echo '→ words'
	git='git -c safe.directory=$(CURDIR)'
	$$git rev-parse --git-dir > /dev/null
	found=$$($$git ls-files -z --cached --others --exclude-standard \
		| xargs -0 grep -nIE -e '$(INDEX_WORDS)' -e '$(MACHINE_PATHS)' -- || true)
	test -z "$$found" || { echo "$$found"; echo 'The tree names a package index or a path of one machine.' >&2; exit 1; }

# ----------------------------------------------------------------------------------------- to mend

.PHONY: fmt
fmt: $(DEV) ## format the tree and apply the safe fixes of the linter
	@$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: pins
pins: ## resolve the dependencies anew (needs uv); UPGRADE=--upgrade takes newer ones
	@pin() { $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header "$$@"; }
	pin $(UPGRADE) --extra demo --extra kubernetes --extra pac --group dev -o requirements/dev.txt pyproject.toml
	pin -c requirements/dev.txt -o requirements/runtime.txt pyproject.toml
	pin -c requirements/dev.txt --extra demo --group build -o requirements/demo.txt pyproject.toml
	pin -c requirements/dev.txt --extra kubernetes -o requirements/kubernetes.txt pyproject.toml
	pin -c requirements/dev.txt --group build -o requirements/build.txt

.PHONY: clean
clean: ## remove the environment, builds and caches
	@rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
