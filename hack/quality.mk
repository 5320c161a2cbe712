# Style, types and tests. What a suite needs built is built before pytest starts: a test's clock is for the test.
PYTEST := $(PYTHON) -m pytest
# What needs a cluster, or what one is made of; `make test` leaves it to `make test-cluster`.
CLUSTER_SUITES := tests/cluster/test_control_plane.py tests/operator tests/auth/test_token_review.py tests/conformance \
	tests/chart tests/images/test_dtq_image.py
# What needs a whole cluster with nodes.
NODE_SUITES := tests/e2e
CONTROL_PLANE_TOOLS := etcd kube-apiserver kubectl
CHART_TOOLS := helm kubeconform
CHART_SOURCES := kubernetes keda prometheus-operator
CLUSTER_TOOLS := $(CONTROL_PLANE_TOOLS) $(CHART_TOOLS)

##@ Quality
.PHONY: lint types unit test verify fmt clean
lint: $(VENV) ## Style, format and layers
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	.venv/bin/lint-imports
types: $(VENV) ## Strict types
	$(PYTHON) -m mypy
unit: $(VENV) ## The tests that need nothing but Python (half a minute)
	$(PYTEST) -q -n 2 tests/unit $(ARGS)
test: $(VENV) packages ## Every suite that needs no cluster, on real servers
	$(PYTEST) -n 2 $(CLUSTER_SUITES:%=--ignore=%) $(NODE_SUITES:%=--ignore=%) $(ARGS)
verify: lint types test test-cluster e2e-smoke ## All of it, as CI runs it
	$(MAKE) faults SCHEDULES=8
fmt: $(VENV) ## Format, and mend what can be mended
	$(PYTHON) -m ruff check --fix-only
	$(PYTHON) -m ruff format
clean: ## Delete caches and the Python environment; the stack's data stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: test-cluster test-operator test-chart test-images e2e-smoke e2e
test-cluster: $(VENV) packages ## The suites that build or need a cluster (Go; minutes when nothing is cached)
	@$(CLUSTER) tools $(CLUSTER_TOOLS)
	@$(CLUSTER) source $(CHART_SOURCES)
	@-$(PYTHON) -m hack.images build dtq # needs root; when it cannot be built, its own test says so
	$(PYTEST) -n 2 $(CLUSTER_SUITES) $(ARGS)
test-operator: $(VENV) packages ## The operator's suite, on a real API server (built when absent; Go)
	@$(CLUSTER) tools $(CONTROL_PLANE_TOOLS)
	$(PYTEST) -n 2 tests/operator $(ARGS)
test-chart: $(VENV) packages ## The chart's suite: lint, schemas, rights, policies, switches (Go for helm)
	@$(CLUSTER) tools $(CLUSTER_TOOLS)
	@$(CLUSTER) source $(CHART_SOURCES)
	$(PYTEST) -n 2 tests/chart $(ARGS)
test-images: $(VENV) ## Build dtq's image, and look into it (root)
	@$(PYTHON) -m hack.images build dtq
	$(PYTEST) tests/images $(ARGS)
# In a cluster with a node: Linux, as root (or DTQ_KUBECONFIG with images it can pull).
# A cluster that is up is used and left; else one is made, and removed at the end.
e2e-smoke: $(VENV) ## The README's five commands in a real cluster: install, first task, uninstall (2 min)
	@$(CLUSTER) tools helm && $(CLUSTER) prepare
	@$(PYTHON) -m hack.images build
	$(PYTEST) -x -v tests/e2e/test_smoke.py $(ARGS)
e2e: $(VENV) ## Install the chart in a real cluster and go through all of its life (15 min when all is built)
	@$(CLUSTER) tools helm && $(CLUSTER) prepare --addons $(ADDONS)
	@$(PYTHON) -m hack.images build
	$(PYTEST) -x -v $(NODE_SUITES) $(ARGS)
