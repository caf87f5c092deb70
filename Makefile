# Every target works on a fresh clone; `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
bin := .venv/bin
packages := contracts platform runtimes statistics scanner probing ml_studio registry deployer inference_gateway monitor \
  model_server governance pipelines local demo
.PHONY: help setup demo demo-stop test lint types contracts unit generate lock bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12

setup: ## Create .venv, fetch Kafka, generate the stubs (quick when nothing changed)
	@tools/setup.sh

demo: setup ## Run the main job end to end on real flights (KEEP=1 leaves it running)
	@$(bin)/python -m phantom_demo $(if $(KEEP),--keep)

demo-stop: ## Stop a demo that KEEP=1 left running
	@$(bin)/python -m phantom_demo --stop

test: setup lint types contracts unit ## Everything that has to hold: lint, types, contracts and every test

lint: setup ## Style of the code and of the protos
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/buf lint

types: setup ## mypy --strict over all our packages
	$(bin)/mypy $(packages:%=-p phantom_%)

contracts: setup ## Who may import whom; generated documents are up to date
	$(bin)/lint-imports
	$(bin)/python -m phantom_contracts.asyncapi --check
	$(bin)/python deploy/grafana/build_dashboard.py --check

unit: setup ## Every test, against a real Kafka and Postgres
	@tools/clients.sh
	@tools/prometheus.sh >/dev/null
	@tools/images.sh >/dev/null || true
	$(bin)/pytest

generate: setup ## Write what is generated: stubs, docs/asyncapi.yaml, the dashboard
	tools/generate.sh
	$(bin)/python -m phantom_contracts.asyncapi
	$(bin)/python deploy/grafana/build_dashboard.py

lock: ## Resolve every dependency anew into the hashed locks
	tools/lock.sh

bench: setup ## Measure serving into one table (ONLY=<group>,… a part; PEERS=1 other servers too)
	@$(bin)/python tests/benchmarks/run.py $(if $(ONLY),--only $(ONLY)) $(if $(PEERS),--peers) $(BENCH)

clean: ## Remove everything that set-up and the tests made, but not .cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis libs/contracts/{phantom,inference,buf}
	find . -path ./.cache -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -print0 | xargs -0 rm -rf
