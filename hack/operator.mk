# The operator on a real API server. KUBECONFIG=file says which cluster `make operator` serves.
.PHONY: operator crds test-operator operator-measure
operator: $(VENV) ## Run the operator in the foreground, on the stack's servers and the cluster of KUBECONFIG
	@$(STACK) dtq operator
crds: $(VENV) ## Write crds/ from the manifest models
	@$(PYTHON) -m hack.crds
test-operator: $(VENV) packages ## The operator's suite, on a real API server (built when absent; Go)
	@$(PYTHON) -m hack.cluster tools etcd kube-apiserver kubectl
	$(PYTHON) -m pytest -n 2 tests/operator $(ARGS)
operator-measure: $(VENV) ## What the operator costs the API server: 2,000 task types, drift, ten quiet minutes
	@set -a; . $${DTQ_STATE:-.dtq}/env; set +a; $(PYTHON) -m hack.operator_measure --kubeconfig $(KUBECONFIG) $(ARGS)
