# A menu, not a program: what happens is in hack/ and in the command `dtq`.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help

PYTHON := .venv/bin/python
VENV := .venv/.dtq-bootstrap
STACK := $(PYTHON) -m hack.stack
# Where Postgres and RabbitMQ come from: native or compose; empty means the best that works here.
PROVIDER :=
# What needs a cluster, or what one is made of; `make test` leaves it to `make test-cluster`.
CLUSTER_SUITES := tests/cluster/test_control_plane.py tests/operator tests/auth/test_token_review.py tests/conformance
# What needs a whole cluster with nodes: `make e2e` (hack/e2e.mk).
NODE_SUITES := tests/e2e
CLUSTER_TOOLS := etcd kube-apiserver kubectl helm kubeconform
# Given to pytest, for example: make test ARGS='-k backoff'
ARGS :=
# Ports and the state folder can be set too: make up DTQ_API_PORT=9090 DTQ_STATE=/var/tmp/dtq

help: ## This list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV): uv.lock pyproject.toml hack/bootstrap
	@hack/bootstrap

##@ Local stack
.PHONY: up down destroy ps logs packages
up: $(VENV) ## Everything, from nothing to a task SUCCEEDED; safe to repeat
	@$(STACK) up $(if $(PROVIDER),--provider $(PROVIDER))
down: $(VENV) ## Stop processes and servers, keep the data
	@$(STACK) down
destroy: $(VENV) ## Stop everything and delete the data
	@$(STACK) destroy
ps: $(VENV) ## What runs: ports, pids, health
	@$(STACK) ps
logs: $(VENV) ## Follow all logs
	@$(STACK) logs
packages: $(VENV) ## Install the packages of Postgres, RabbitMQ and what the tests need; start nothing
	@$(STACK) install

##@ Parts of it
.PHONY: db-apply db-seed-type init api worker config db-shell
db-apply: $(VENV) ## Apply the database's migrations
	@$(STACK) dtq migrate
db-seed-type: $(VENV) ## Declare the sample task type
	@$(STACK) dtq apply -f examples/tasktype-email.yaml
init: $(VENV) ## Declare the sample queue set: exchanges, queues, bindings
	@$(STACK) dtq apply -f examples/queueset-default.yaml
api: $(VENV) ## Run the API in the foreground
	@$(STACK) dtq api
worker: $(VENV) ## Run a worker in the foreground
	@$(STACK) dtq worker
config: $(VENV) ## The settings in force, secrets masked
	@$(STACK) dtq config
db-shell: $(VENV) ## psql on the stack's database
	@$(STACK) db-shell

##@ Development
.PHONY: lint types test test-cluster bench fmt verify clean
lint: $(VENV) ## Style, format and layers
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	.venv/bin/lint-imports
types: $(VENV) ## Strict types
	$(PYTHON) -m mypy
test: $(VENV) packages ## Every suite that needs no cluster, on real servers
	$(PYTHON) -m pytest -n 2 $(CLUSTER_SUITES:%=--ignore=%) $(NODE_SUITES:%=--ignore=%) $(ARGS)
test-cluster: $(VENV) packages ## The suites that build or need a cluster (Go; minutes when nothing is cached)
	@$(PYTHON) -m hack.cluster tools $(CLUSTER_TOOLS)
	$(PYTHON) -m pytest -n 2 $(CLUSTER_SUITES) $(ARGS)
bench: $(VENV) ## Plain figures of this machine, beside a running stack (make up bench)
	@set -a; . $${DTQ_STATE:-.dtq}/env; set +a; $(PYTHON) -m bench $(ARGS)
fmt: $(VENV) ## Format, and mend what can be mended
	$(PYTHON) -m ruff check --fix-only
	$(PYTHON) -m ruff format
verify: lint types test test-cluster e2e-smoke ## All of it, as CI runs it
	$(MAKE) faults SCHEDULES=8
clean: ## Delete caches and the Python environment; the stack's data stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

-include $(wildcard hack/*.mk)
