# Clusters for tests; `python -m hack.cluster --help` says which one is taken. Variables:
# CONTROL_PLANE_ONLY=1, DTQ_KUBECONFIG=file, DTQ_CLUSTER_STATE=folder, IMAGE=archive.tar, ADDONS=names
CLUSTER := $(PYTHON) -m hack.cluster
ADDONS := keda prometheus

##@ Cluster
.PHONY: cluster-up cluster-down cluster-status cluster-addons cluster-images cluster-load
cluster-up: $(VENV) ## Start a Kubernetes cluster (CONTROL_PLANE_ONLY=1: just etcd and the API server)
	$(CLUSTER) up $(if $(CONTROL_PLANE_ONLY),--control-plane-only)
cluster-down: $(VENV) ## Remove that cluster and all that it made
	$(CLUSTER) down
cluster-status: $(VENV) ## Say what of the cluster runs
	$(CLUSTER) status
cluster-addons: $(VENV) ## Put KEDA and Prometheus into the cluster (ADDONS="keda prometheus")
	$(CLUSTER) addons $(ADDONS)
cluster-images: $(VENV) ## Build the images and put them into the cluster, under the names that the chart takes
	@$(PYTHON) -m hack.images load
cluster-load: $(VENV) ## Make an image archive available to the cluster's pods (IMAGE=archive.tar)
	$(CLUSTER) load $(IMAGE)
