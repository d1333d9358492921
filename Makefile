# Two commands are all a fresh machine needs: `make demo` and `make test`. `make e2e` needs Go, too.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Tests and demo start many processes: what they import is compiled once, not by each of them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test deep ray kube cluster e2e manifests lint format bench-smoke docs lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Setting up for the demo installs what the product needs; the tests add their tools.
$(VENV)/runtime.done: requirements/runtime.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/runtime.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.done: requirements/dev.lock $(VENV)/runtime.done
	$(PIP) install --require-hashes -r requirements/dev.lock
	@touch $@

$(VENV)/ray.done: requirements/ray.lock $(VENV)/dev.done
	$(PIP) install --require-hashes -r requirements/ray.lock
	@touch $@

$(VENV)/docs.done: requirements/docs.lock $(VENV)/runtime.done
	$(PIP) install --require-hashes -r requirements/docs.lock
	@touch $@

demo: $(VENV)/runtime.done ## Pack a synthetic cluster of 1,200 GPU nodes through the real webhook
	$(BIN)/snugfit demo

# Workers share nothing: every test has ports and files of its own. Many wait for a server, so that
# there may be more workers than cores.
WORKERS := -n 4 --dist worksteal

test: $(VENV)/dev.done ## Run the tests that need nothing but Python (minutes)
	$(BIN)/python -m pytest $(WORKERS) -m "not e2e and not deep and not ray"

deep: $(VENV)/dev.done ## Try the properties with many more examples, others each time
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest $(WORKERS) --timeout 1800 -m "(hypothesis or scaled) and not e2e"

ray: $(VENV)/ray.done ## Run sweeps on a Ray cluster of two nodes, one of which is killed
	$(BIN)/python -m pytest -m ray

kube: $(VENV)/dev.done ## Build the control plane of the end-to-end tests (20 minutes, once; Go)
	$(BIN)/python -m testbed.controlplane.assets

cluster: kube ## Run a local cluster of four nodes with fake GPUs, until Ctrl-C
	$(BIN)/python -m testbed.controlplane.local .cluster

e2e: kube ## Run what `make test` leaves out, on a real control plane
	$(BIN)/python -m pytest -m "e2e or deep"

HELM      ?= helm
MANIFESTS ?= deploy/manifests
KUBE      := 1.37.2

manifests: $(VENV)/dev.done ## Write the chart's schema of settings and render the plain manifests (HELM=path)
	$(BIN)/python deploy/settings_schema.py
	@mkdir -p $(MANIFESTS)
	@for topology in sidecar service; do \
	    { echo "# Rendered from deploy/helm/snugfit by 'make manifests'. Give kube-scheduler's image the"; \
	      echo "# version of your cluster, snugfit's the name under which you have pushed it, and 192.0.2.0/24,"; \
	      echo "# where it occurs, the addresses of your control plane."; \
	      $(HELM) template snugfit deploy/helm/snugfit --namespace snugfit --kube-version $(KUBE) \
	          --set namespace.create=true --set topology=$$topology \
	          --set image.repository=registry.example.com/snugfit \
	          --set 'networkPolicy.schedulerFrom[0].ipBlock.cidr=192.0.2.0/24'; \
	    } > $(MANIFESTS)/$$topology.yaml || exit 1; \
	done

lint: $(VENV)/dev.done ## Style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.done ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-smoke: $(VENV)/dev.done ## A benchmark run small enough for every change
	$(BIN)/python -m bench smoke

docs: $(VENV)/docs.done ## Build the book into site/; broken links and anchors are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Hashes, and nothing that names a registry.
# Extras stay: pip takes "name[extra]" for a requirement of its own, and without a version of its own
# a newer release breaks every installation.
lock: $(VENV)/dev.done ## Renew the locked dependencies
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-annotate --no-strip-extras --extra certificates pyproject.toml \
	    requirements/build.in -o requirements/runtime.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-annotate --no-strip-extras --extra dev pyproject.toml requirements/build.in \
	    --constraint requirements/runtime.lock -o requirements/dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-annotate --no-strip-extras --extra docs pyproject.toml requirements/build.in \
	    --constraint requirements/dev.lock -o requirements/docs.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-annotate --no-strip-extras --extra ray pyproject.toml requirements/build.in \
	    --constraint requirements/dev.lock -o requirements/ray.lock

clean: ## Forget the environment and every cache
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
