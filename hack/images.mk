# Images without a registry; `python -m hack.images --help` says more.
.PHONY: images cluster-images sbom test-images
CLUSTER_SUITES += tests/images/test_dtq_image.py
images: $(VENV) ## Build the images as archives: dtq, and the demo servers
	@$(PYTHON) -m hack.images build
cluster-images: $(VENV) ## Build the images and put them into the cluster, under the names that the chart takes
	@$(PYTHON) -m hack.images load
sbom: $(VENV) ## What dtq's image is made of, as CycloneDX JSON
	@$(PYTHON) -m hack.images sbom
test-images: $(VENV) ## Build dtq's image, and look into it (root)
	$(PYTHON) -m pytest tests/images $(ARGS)
