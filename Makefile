# `make help` lists what there is. The work is done by scripts/, which can be called by themselves.
.DEFAULT_GOAL := help
.PHONY: help demo test test-bi test-container check-deploy lint screenshots bench bench-bi db sqlx clean-db
ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: ## build and show the whole system, without a tenant and without a database
	@exec ./scripts/demo.sh $(ARGS)

test: ## everything that must hold: format, lints, tests on a throw-away PostgreSQL, .sqlx
	@exec ./scripts/test.sh

check-deploy: ## alert rules, manifests, chart, Dockerfile and compose file only
	@exec ./scripts/check-deploy.sh $(ARGS)

test-bi: ## Superset, dbt and JDBC against a known history (downloads 1 GB of Python packages the first time)
	@exec ./scripts/test-bi.sh

test-container: ## build the image and try it in an engine of its own (as root; installs docker if there is none)
	@exec ./scripts/test-container.sh $(ARGS)

lint: ## format and lints only
	@exec ./scripts/lint.sh

bench: ## measure
	@exec ./scripts/bench.sh $(ARGS)

screenshots: ## make the pictures of the status page in docs/images anew
	@exec ./scripts/screenshots.sh

bench-bi: ## measure the views on 12 million rows: some minutes, 4 GB of disk
	@exec ./scripts/bench-bi.sh

db: ## start a PostgreSQL to develop against, and print its DATABASE_URL
	@exec ./scripts/db.sh

sqlx: ## renew .sqlx after a change of the schema or of a statement
	@./scripts/install-deps.sh
	@exec ./scripts/test-db.sh run ./scripts/sqlx.sh write

clean-db: ## delete the data of the program's own PostgreSQL in this folder
	@exec ./scripts/clean-db.sh
