# Images without a registry; `python -m hack.images --help` says more.
.PHONY: images
images: $(VENV) ## Build the images as archives: dtq, and the demo servers
	@$(PYTHON) -m hack.images build
