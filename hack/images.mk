# Images without a registry; `python -m hack.images --help` says more.
.PHONY: images sbom test-images
CLUSTER_SUITES += tests/images/test_dtq_image.py
images: $(VENV) ## Build the images as archives: dtq, and the demo servers
	@$(PYTHON) -m hack.images build
sbom: $(VENV) ## What dtq's image is made of, as CycloneDX JSON
	@$(PYTHON) -m hack.images sbom
test-images: $(VENV) ## Build dtq's image, and look into it (root)
	$(PYTHON) -m pytest tests/images $(ARGS)
