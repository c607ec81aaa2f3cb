package books

import "github.com/caddy-llm-gateway/gateway/billing"

// Granted returns what to grant to a draw where other nodes have been granted,
// or have used, so much.
func Granted(d billing.Draw, elsewhere int64) int64 {
	room := max(0, d.Limit-elsewhere)
	if granted := min(d.Want, room); granted >= d.Least {
		return granted
	}
	return min(d.Used, room)
}
