# A menu, not a program: what happens is in hack/ and in the command `dtq`. Each part of the menu is a file of hack/.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help

PYTHON := .venv/bin/python
VENV := .venv/.dtq-bootstrap
# Given to pytest or to a measurement, for example: make test ARGS='-k backoff'
ARGS :=

help: ## This list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV): uv.lock pyproject.toml hack/bootstrap hack/uv.txt
	@hack/bootstrap

include hack/stack.mk hack/cluster.mk hack/quality.mk hack/faults.mk hack/images.mk
