# The Helm chart; `helm` and `kubeconform` are built by hack/cluster.
.PHONY: chart test-chart
CLUSTER_SUITES += tests/chart
chart: $(VENV) ## Write what is generated of the chart: definitions, README, snapshots
	@$(PYTHON) -m hack.crds
	@$(PYTHON) -m hack.chart
test-chart: $(VENV) ## The chart's suite: lint, schemas, rights, policies, switches (Go for helm)
	$(PYTHON) -m pytest -n 2 tests/chart $(ARGS)
