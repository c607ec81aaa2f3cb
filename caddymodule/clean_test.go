package caddymodule

import "testing"

// Who reads a list of requests in a terminal must not have it written to by who
// made them.
func TestTextsFromOutsideHaveNoControlCharacters(t *testing.T) {
	t.Parallel()
	if got := clean("gpt-4o\x1b[2J\u009b31m\u0085é", 100); got != "gpt-4o[2J31mé" {
		t.Errorf("%q", got)
	}
}
