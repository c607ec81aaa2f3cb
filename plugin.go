// Package gateway adds the LLM gateway to Caddy: import it in a build of
// Caddy, or name it to xcaddy, and the modules are there. The app and the
// request path are in package caddymodule, the management API in admin.
package gateway

import (
	_ "github.com/caddy-llm-gateway/gateway/admin"       // management API
	_ "github.com/caddy-llm-gateway/gateway/caddymodule" // app and request path
)
