# Breaking dtq on purpose; `python -m tests.faults --help` says more. Variables:
# SCHEDULES=40, FIRST=0 (the first seed), LANES=2 (systems side by side), FAULTS_STATE=folder
.PHONY: faults faults-long faults-report guarantees
SCHEDULES := 40
FIRST := 0
LANES := 2
FAULTS_STATE := .faults
FAULTS := $(PYTHON) -m tests.faults --lanes $(LANES)

faults: $(VENV) packages ## Random fault schedules on real processes (SCHEDULES=40; about 15 minutes)
	$(FAULTS) --state $(FAULTS_STATE)/short --fresh schedules --first $(FIRST) --count $(SCHEDULES)

faults-long: $(VENV) packages ## 200 schedules, a kill loop and a soak; goes on where it was interrupted
	$(FAULTS) --state $(FAULTS_STATE)/long long
	$(FAULTS) --state $(FAULTS_STATE)/long report

faults-report: $(VENV) ## Write docs/fault-report.md from what the long run has found so far
	$(FAULTS) --state $(FAULTS_STATE)/long report

guarantees: $(VENV) packages ## Run every test that docs/guarantees.md names, and write the page
	@$(PYTHON) -m hack.cluster tools $(CLUSTER_TOOLS)
	$(PYTHON) -m pytest -n 2 -q --junit-xml $(FAULTS_STATE)/junit.xml $$($(FAULTS) named) || true
	$(FAULTS) --state $(FAULTS_STATE)/long guarantees --junit $(FAULTS_STATE)/junit.xml

.PHONY: failpoints faults-selftest
failpoints: $(VENV) packages ## Die, fail, hang and dawdle at every step of the code (make test only dies there)
	FAILPOINTS=all $(PYTHON) -m pytest -n 4 tests/faults/test_failpoints.py $(ARGS)

faults-selftest: $(VENV) packages ## Take away what the guarantee rests on, one at a time: the suite must notice
	$(PYTHON) -m pytest -n 2 tests/faults/selftest.py $(ARGS)
