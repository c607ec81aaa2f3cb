# Builds Caddy with this checkout of the gateway the way users do, with xcaddy,
# and shows that its modules are in the binary:
#
#	make -f xcaddy.mk

GO     ?= go
MODULE := github.com/caddy-llm-gateway/gateway
BINARY := bin/caddy-xcaddy
# The Caddy version that go.mod is tested with.
CADDY_VERSION := $(shell $(GO) list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)

.PHONY: xcaddy
xcaddy:
	$(GO) tool -modfile=tools/go.mod xcaddy build $(CADDY_VERSION) --output $(BINARY) --with $(MODULE)@v0.0.0=.
	$(BINARY) list-modules | grep llm_gateway
