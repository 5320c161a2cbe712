# Images without a registry (`python -m hack.images --help` says more), and the files that a release is made of.
##@ Images and release
.PHONY: images sbom audit crds chart
images: $(VENV) ## Build the images as archives: dtq, and the demo servers
	@$(PYTHON) -m hack.images build
sbom: $(VENV) ## What dtq's image is made of, as CycloneDX JSON
	@$(PYTHON) -m hack.images sbom
audit: $(VENV) ## Known vulnerabilities of dtq's Python packages (asks api.osv.dev)
	@$(PYTHON) -m hack.images audit
crds: $(VENV) ## Write crds/ from the manifest models
	@$(PYTHON) -m hack.crds
chart: $(VENV) ## Write what is generated of the chart: definitions, README, snapshots
	@$(PYTHON) -m hack.crds
	@$(PYTHON) -m hack.chart
