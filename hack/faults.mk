# Breaking dtq on purpose (`python -m tests.faults --help` says more), and measuring it. Variables:
# SCHEDULES=40, FIRST=0 (the first seed), WORLDS=2 (systems side by side), FAULTS_STATE=folder
SCHEDULES := 40
FIRST := 0
WORLDS := 2
FAULTS_STATE := .faults
FAULTS := $(PYTHON) -m tests.faults --worlds $(WORLDS)

##@ Faults and benchmarks
.PHONY: faults faults-long faults-report guarantees
faults: $(VENV) packages ## Random fault schedules on real processes (SCHEDULES=40; about 15 minutes)
	$(FAULTS) --state $(FAULTS_STATE)/short --fresh schedules --first $(FIRST) --count $(SCHEDULES)

faults-long: $(VENV) packages ## 200 schedules, a kill loop and a soak; goes on where it was interrupted
	$(FAULTS) --state $(FAULTS_STATE)/long long
	$(FAULTS) --state $(FAULTS_STATE)/long report

faults-report: $(VENV) ## Write docs/fault-report.md from what the long run has found so far
	$(FAULTS) --state $(FAULTS_STATE)/long report

guarantees: $(VENV) packages ## Run every test that docs/guarantees.md names, and write the page
	@$(CLUSTER) tools $(CLUSTER_TOOLS)
	$(PYTHON) -m pytest -n 2 -q --junit-xml $(FAULTS_STATE)/junit.xml $$($(FAULTS) named) || true
	$(FAULTS) --state $(FAULTS_STATE)/long guarantees --junit $(FAULTS_STATE)/junit.xml

.PHONY: failpoints faults-selftest
failpoints: $(VENV) packages ## Die, fail, hang and dawdle at every step of the code (make test only dies there)
	FAILPOINTS=all $(PYTHON) -m pytest -n 4 tests/faults/test_failpoints.py $(ARGS)

faults-selftest: $(VENV) packages ## Take away what the guarantee rests on, one at a time: the suite must notice
	$(PYTHON) -m pytest -n 2 tests/faults/selftest.py $(ARGS)

.PHONY: bench bench-check attack operator-measure
# On servers of its own, beside nothing else; ARGS='--help' lists what can be chosen.
bench: $(VENV) packages ## dtq beside its peers and the raw limits; writes docs/benchmarks.md (25 min; Go, Node.js)
	@$(PYTHON) -m bench $(ARGS)
bench-check: $(VENV) packages ## The ratios alone, in short: fails when one fell below bench/ranges.toml (5 min)
	@$(PYTHON) -m bench.check $(ARGS)
attack: up ## One tenant attacks the API, another one enqueues: its latency, the API's memory (five minutes)
	@set -a; . $${DTQ_STATE:-.dtq}/env; set +a; $(PYTHON) -m bench.attack $(ARGS)
operator-measure: up ## What the operator of KUBECONFIG=file costs its API server: 2,000 task types, drift, ten quiet minutes
	@set -a; . $${DTQ_STATE:-.dtq}/env; set +a; $(PYTHON) -m bench.operator_load --kubeconfig $(KUBECONFIG) $(ARGS)
