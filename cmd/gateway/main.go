// Command gateway is Caddy with the gateway's modules: the program that
// xcaddy would generate, without needing xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-llm-gateway/gateway"
)

func main() { caddycmd.Main() }
