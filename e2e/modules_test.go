package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestBinaryHasAllModules checks that the program links what users configure.
func TestBinaryHasAllModules(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), gatewayBinary(), "list-modules").Output()
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Fields(string(out))
	for _, module := range []string{
		"llm_gateway",
		"admin.api.llm_gateway",
		"http.handlers.llm_gateway",
		"http.handlers.llm_gateway_admin",
		"http.handlers.llm_gateway_sandbox",
	} {
		if !slices.Contains(listed, module) {
			t.Errorf("module %s is not in the binary", module)
		}
	}
}
