# Postgres, RabbitMQ and dtq's processes on this machine; `python -m hack.stack --help` says more.
# Ports and the state folder can be set too: make up DTQ_API_PORT=9090 DTQ_STATE=/var/tmp/dtq
STACK := $(PYTHON) -m hack.stack
# Where Postgres and RabbitMQ come from: native or compose; empty means the best that works here.
PROVIDER :=

##@ Local stack
.PHONY: up down destroy ps logs config db-shell packages
up: $(VENV) ## Everything, from nothing to a task SUCCEEDED; safe to repeat
	@$(STACK) up $(if $(PROVIDER),--provider $(PROVIDER))
down: $(VENV) ## Stop processes and servers, keep the data
	@$(STACK) down
destroy: $(VENV) ## Stop everything and delete the data
	@$(STACK) destroy
ps: $(VENV) ## What runs: ports, pids, health
	@$(STACK) ps
logs: $(VENV) ## Follow all logs
	@$(STACK) logs
config: $(VENV) ## The settings in force, secrets masked
	@$(STACK) dtq config
db-shell: $(VENV) ## psql on the stack's database
	@$(STACK) db-shell
packages: $(VENV) ## Install the packages of Postgres, RabbitMQ and what the tests need; start nothing
	@$(STACK) install

.PHONY: db-apply db-seed-type init api worker operator
db-apply: $(VENV) ## Apply the database's migrations
	@$(STACK) dtq migrate
db-seed-type: $(VENV) ## Declare the sample task type
	@$(STACK) dtq apply -f examples/tasktype-email.yaml
init: $(VENV) ## Declare the sample queue set: exchanges, queues, bindings
	@$(STACK) dtq apply -f examples/queueset-default.yaml
api: $(VENV) ## Run the API in the foreground
	@$(STACK) dtq api
worker: $(VENV) ## Run a worker in the foreground
	@$(STACK) dtq worker
operator: $(VENV) ## Run the operator in the foreground, for the cluster of KUBECONFIG=file
	@$(STACK) dtq operator
