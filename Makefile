PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# Tests wait more than they compute: one process more than there are cores.
PARALLEL ?= --numprocesses auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run test verify bench scenarios soak crds proto values manifests images kind-test release format lock clean

# Of images; a builder other than docker takes the same arguments.
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
IMAGES ?= trialfleet
BUILDER ?= docker
LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD)
KIND_CLUSTER ?= trialfleet
KIND_CONFIG := $(CURDIR)/dist/kind.kubeconfig

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "PYTHON=... names the interpreter of a new virtual environment (3.11 or later)."

# Hash-checked packages first; then the project itself, which needs nothing else.
$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: $(STAMP) ## Run the digits example: real data, pruning, a picture of its history
	@mkdir -p .trialfleet/digits
	$(BIN)/trialfleet run examples/digits/study.yaml --data .trialfleet/digits --parallelism 2 \
	  --plot .trialfleet/digits/history.png

test: $(STAMP) ## Run all tests that need no cluster (ARGS="-k name" for some of them)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

verify: $(STAMP) ## Check style, types, layers and generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/generate.py --check
	$(BIN)/python tools/version.py --check

bench: $(STAMP) ## Compare with stock Optuna on the same PostgreSQL, as ratios
	$(BIN)/python -m benchmarks $(ARGS)

scenarios: $(STAMP) ## Run what may befall a study on a cluster, against a stand-in for one
	$(BIN)/python -m pytest -m scenario tests/controller $(PARALLEL) $(ARGS)

soak: $(STAMP) ## Run the tests that take long: random kills, memory over an hour
	$(BIN)/python -m pytest -m soak -s -o faulthandler_timeout=0 $(ARGS)

crds: $(STAMP) ## Regenerate crds/ from operator/trialfleet/api
	$(BIN)/python tools/generate.py crds

proto: $(STAMP) ## Regenerate the stubs and docs/protocol.md from proto/
	$(BIN)/python tools/generate.py proto

values: $(STAMP) ## Regenerate docs/values.md from the chart's values.yaml
	$(BIN)/python tools/generate.py values

manifests: $(STAMP) ## Render the chart into dist/trialfleet.yaml for kubectl (ARGS="--namespace N")
	$(BIN)/python tools/manifests.py $(ARGS)

images: ## Build the images (BUILDER=docker, IMAGES=trialfleet: how their names begin)
	$(BUILDER) build $(LABELS) -t $(IMAGES)/operator:$(VERSION) .
	$(BUILDER) build $(LABELS) -t $(IMAGES)/worker:$(VERSION) -f worker-image/Dockerfile .
	$(BUILDER) build --build-arg WORKER=$(IMAGES)/worker:$(VERSION) -t $(IMAGES)/digits:$(VERSION) \
	  -f examples/digits/Dockerfile .

kind-test: $(STAMP) images ## Run the tests in a kind cluster of their own (needs Docker, kind, kubectl, helm)
	kind create cluster --name $(KIND_CLUSTER) --config tests/e2e/kind.yaml --kubeconfig $(KIND_CONFIG)
	@trap 'kind delete cluster --name $(KIND_CLUSTER)' EXIT; set -ex; \
	  kind load docker-image --name $(KIND_CLUSTER) \
	    $(IMAGES)/operator:$(VERSION) $(IMAGES)/worker:$(VERSION) $(IMAGES)/digits:$(VERSION); \
	  export KUBECONFIG=$(KIND_CONFIG); \
	  helm install trialfleet charts/trialfleet --namespace trialfleet-system --create-namespace \
	    --wait --set image.repository=$(IMAGES)/operator --set workerImage.repository=$(IMAGES)/worker; \
	  $(BIN)/python -m pytest tests/e2e --cluster --installed trialfleet-system \
	    --operator-image $(IMAGES)/operator:$(VERSION) --worker-image $(IMAGES)/worker:$(VERSION) \
	    --python-image $(IMAGES)/worker:$(VERSION) $(ARGS)

release: $(STAMP) ## Make the files of a release of the current commit in dist/, always the same bytes
	$(BIN)/python tools/release.py $(ARGS)

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(STAMP) ## Resolve the dependencies of pyproject.toml into requirements/
	$(BIN)/python tools/lock.py $(ARGS)

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
