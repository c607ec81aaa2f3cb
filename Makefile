# Everything that a contributor runs. `make` alone lists it.

GO     ?= go
TOOL   := $(GO) tool -modfile=tools/go.mod
BINARY := bin/caddy

# Address of the demo, if not its default: make run LISTEN=127.0.0.1:9000
LISTEN :=

# Go and npm keep their caches in HOME, which services are often run without.
export HOME ?= $(shell getent passwd "$$(id -u)" | cut -d: -f6)

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# $(call install,PACKAGES): installs them with apt-get, or says what is missing.
install = { echo "installing $(1)" && $(SUDO) apt-get -qq update && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $(1); } || \
	{ echo "this needs $(1) (Debian's names): install it, then try again" >&2; exit 1; }

.DEFAULT_GOAL := help
# The steps of `test` are in order, and each uses all processors.
.NOTPARALLEL:
.PHONY: help run build test vet unit e2e chaos chaos-short bench lint xcaddy setup setup-compiler setup-postgres setup-server setup-npm setup-curl clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## Start a demo: sandbox provider, SQLite in ./data, a key and curl lines to try
	$(BINARY) llm-gateway demo $(if $(LISTEN),--listen $(LISTEN))

build: ## Build Caddy with the gateway into bin/caddy
	$(GO) build -o $(BINARY) ./cmd/gateway

test: setup vet unit e2e chaos-short ## Set up, then run every test (what CI runs)

vet: ## Run go vet on the product and on the end-to-end tests
	$(GO) vet ./...
	cd e2e && $(GO) vet ./...

unit: setup-compiler setup-server ## Run the unit tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -vet=off -timeout 20m ./...

# The suite always runs: its subject is a binary, which go's test cache does not watch.
e2e: build setup-postgres setup-curl e2e/node_modules/.package-lock.json ## Run the end-to-end tests: real SDKs against bin/caddy
	cd e2e && GATEWAY_BIN=$(abspath $(BINARY)) $(GO) test -vet=off -count=1 -timeout 15m .

# $(call break,FLAGS): breaks a cluster of gateways. CHAOS has further flags:
# make chaos CHAOS='-chaos.seed 7 -chaos.scenarios kills'
break = cd e2e && GATEWAY_BIN=$(abspath $(BINARY)) $(GO) test -vet=off -count=1 -timeout 30m -v ./chaos $(1) $(CHAOS)

chaos: build setup-server ## Kill, cut and starve a cluster for ten minutes, then reconcile its books
	$(call break,-chaos.full)

chaos-short: build setup-server ## The same in three minutes
	$(call break)

bench: build setup-postgres ## Measure the gateway next to a plain reverse proxy, then its parts
	$(GO) run ./bench -bin $(BINARY) -store sqlite
	$(GO) run ./bench -bin $(BINARY) -store postgres
	$(GO) run ./bench -usage -store sqlite
	$(GO) run ./bench -usage -store postgres
	$(GO) test -run '^$$' -bench . -benchmem ./metering/... ./billing/... ./internal/... ./caddymodule/...

lint: ## Run golangci-lint (compiles it on first use)
	$(TOOL) golangci-lint run ./...
	cd e2e && $(GO) tool -modfile=../tools/go.mod golangci-lint run ./...

xcaddy: ## Build with xcaddy, as users do, and list the modules
	$(MAKE) -f xcaddy.mk

setup: setup-compiler setup-postgres setup-curl e2e/node_modules/.package-lock.json ## Install what the tests need and this machine lacks

# The race detector needs a C compiler.
setup-compiler:
	@command -v $(firstword $(shell $(GO) env CC)) >/dev/null || $(call install,gcc libc6-dev)

# The tests start a server of their own, from where initdb is, unless
# TEST_DATABASE_URL names one.
INITDB := /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb \
	/opt/homebrew/opt/postgresql*/bin/initdb /usr/local/opt/postgresql*/bin/initdb
setup-postgres:
	@[ -n "$$TEST_DATABASE_URL" ] || $(MAKE) --no-print-directory setup-server

setup-server:
	@[ -n "$(wildcard $(INITDB))" ] || command -v initdb >/dev/null || $(call install,postgresql)

# The tests run the commands of the documents.
setup-curl:
	@command -v curl >/dev/null || $(call install,curl)

setup-npm:
	@command -v npm >/dev/null || $(call install,npm)

# The SDKs want a newer Node.js than many machines have. On Linux (x64) it is
# among the packages, so npm's opinion of the installed one does not count.
e2e/node_modules/.package-lock.json: e2e/package.json e2e/package-lock.json | setup-npm
	cd e2e && npm ci --include=optional --engine-strict=false --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

clean: ## Remove what was built and the demo's data
	rm -rf bin data
