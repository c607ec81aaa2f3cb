package billing_test

import (
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestPlainText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"":                   true,
		"Ada, \u00e9t\u00e9": true,
		"two\nlines":         false,
		"NUL\x00":            false,
		"C1 \u0085":          false,
		"half \xc3":          false,
	} {
		if got := billing.IsPlainText(text); got != want {
			t.Errorf("IsPlainText(%q) = %t", text, got)
		}
	}
}

func TestLowerASCII(t *testing.T) {
	t.Parallel()
	// KELVIN SIGN has a k as its lower case, and the dotted I an i.
	const text = "Ada@EXAMPLE.com \u212a \u0130 \u00c9"
	if got, want := billing.LowerASCII(text), "ada@example.com \u212a \u0130 \u00c9"; got != want {
		t.Errorf("LowerASCII(%q) = %q, want %q", text, got, want)
	}
}
