# Clusters for tests; `python -m hack.cluster --help` says which one is taken. Variables:
# CONTROL_PLANE_ONLY=1, DTQ_KUBECONFIG=file, DTQ_CLUSTER_STATE=folder, IMAGE=archive.tar, ADDONS=names
ADDONS := keda prometheus
.PHONY: cluster-up cluster-down cluster-status cluster-load cluster-addons

cluster-up: $(VENV) ## Start a Kubernetes cluster (CONTROL_PLANE_ONLY=1: just etcd and the API server)
	$(PYTHON) -m hack.cluster up $(if $(CONTROL_PLANE_ONLY),--control-plane-only)

cluster-down: $(VENV) ## Remove that cluster and all that it made
	$(PYTHON) -m hack.cluster down

cluster-status: $(VENV) ## Say what of the cluster runs
	$(PYTHON) -m hack.cluster status

cluster-load: $(VENV) ## Make an image archive available to the cluster's pods (IMAGE=archive.tar)
	$(PYTHON) -m hack.cluster load $(IMAGE)

cluster-addons: $(VENV) ## Put KEDA and Prometheus into the cluster (ADDONS="keda prometheus")
	$(PYTHON) -m hack.cluster addons $(ADDONS)
