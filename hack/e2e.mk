# The whole mission in a cluster with a node: Linux, as root (or DTQ_KUBECONFIG with images it can pull).
# A cluster that is up is used and left; else one is made, and removed at the end.
.PHONY: e2e
e2e: $(VENV) ## Install the chart in a real cluster and go through all of its life (15 min when all is built)
	$(PYTHON) -m pytest -x -v $(NODE_SUITES) $(ARGS)

.PHONY: e2e-smoke
e2e-smoke: $(VENV) ## The README's five commands in a real cluster: install, first task, uninstall (2 min)
	$(PYTHON) -m pytest -x -v tests/e2e/test_smoke.py $(ARGS)
