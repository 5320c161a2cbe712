# The benchmark: on servers of its own, beside nothing else. ARGS='--help' lists what can be chosen.
##@ Benchmark
.PHONY: bench bench-check
bench: $(VENV) packages ## dtq beside its peers and the raw limits; writes docs/benchmarks.md (25 min; Go, Node.js)
	@$(PYTHON) -m bench $(ARGS)
bench-check: $(VENV) packages ## The ratios alone, in short: fails when one fell below bench/ranges.toml (5 min)
	@$(PYTHON) -m bench.check $(ARGS)
