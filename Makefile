# Everything that a contributor runs. `make` alone lists it.

GO     ?= go
TOOL   := $(GO) tool -modfile=tools/go.mod
BINARY := bin/caddy

SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)
INSTALL := $(SUDO) apt-get -qq update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install

.DEFAULT_GOAL := help
.PHONY: help run build test vet unit e2e bench lint xcaddy setup setup-compiler setup-postgres clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## Start a demo: sandbox provider, SQLite in ./data, a key and curl lines to try
	$(BINARY) llm-gateway demo

build: ## Build Caddy with the gateway into bin/caddy
	$(GO) build -o $(BINARY) ./cmd/gateway

test: setup vet unit e2e ## Set up, then run every test (what CI runs)

vet: ## Run go vet on the product and on the end-to-end tests
	$(GO) vet ./...
	cd e2e && $(GO) vet ./...

unit: setup-compiler setup-postgres ## Run the unit tests under the race detector
	$(GO) test -race -vet=off -timeout 20m ./...

# The suite always runs: its subject is a binary, which go's test cache does not watch.
e2e: build setup-postgres e2e/node_modules/.package-lock.json ## Run the end-to-end tests: real SDKs against bin/caddy
	cd e2e && GATEWAY_BIN=$(abspath $(BINARY)) $(GO) test -vet=off -count=1 -timeout 15m ./...

bench: build setup-postgres ## Measure the gateway next to a plain reverse proxy, then its parts
	$(GO) run ./bench -bin $(BINARY) -store sqlite
	$(GO) run ./bench -bin $(BINARY) -store postgres
	$(GO) test -run '^$$' -bench . -benchmem ./metering/... ./billing/... ./internal/... ./caddymodule/...

lint: ## Run golangci-lint (compiles it on first use)
	$(TOOL) golangci-lint run ./...

xcaddy: ## Build with xcaddy, as users do, and list the modules
	$(MAKE) -f xcaddy.mk

setup: setup-compiler setup-postgres e2e/node_modules/.package-lock.json ## Install what the tests need and this machine lacks

# The race detector needs a C compiler.
setup-compiler:
	@command -v gcc >/dev/null || { $(INSTALL) gcc libc6-dev; }

setup-postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { $(INSTALL) postgresql; }

e2e/node_modules/.package-lock.json: e2e/package.json e2e/package-lock.json
	cd e2e && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

clean: ## Remove what was built and the demo's data
	rm -rf bin data
