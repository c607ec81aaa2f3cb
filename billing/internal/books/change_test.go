package books

import (
	"slices"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// recordsAll checks that each field of a T is recorded but for those that are
// not: its ids, which are the subject's, and what nobody changes or may see.
func recordsAll[T any](t *testing.T, fields func(T) Fields, not ...string) {
	t.Helper()
	var original T
	change(t, original, func(field string, v T) {
		recorded := len(fields(v).unlike(fields(original))) > 0
		if recorded == slices.Contains(not, field) {
			t.Errorf("%T.%s: recorded is %t", original, field, recorded)
		}
	})
}

func TestAllThatPeopleChangeIsRecorded(t *testing.T) {
	t.Parallel()
	recordsAll(t, KeyFields, "ID", "OrganizationID", "Hash", "CreatedAt", "LastUsedAt", "SecretExpiresAt")
	recordsAll(t, OrganizationFields, "ID", "CreatedAt")
	recordsAll(t, MemberFields, "ID", "OrganizationID", "CreatedAt")
	recordsAll(t, TokenFields, "ID", "Hash", "CreatedAt", "LastUsedAt")
	recordsAll(t, ProjectFields, "OrganizationID", "Name", "CreatedAt")
}

func TestChangeKeepsWhatDiffers(t *testing.T) {
	t.Parallel()
	subject := billing.ChangeSubject{Kind: billing.SubjectKey, ID: "a"}
	for name, test := range map[string]struct {
		before, after         Fields
		wantBefore, wantAfter string
	}{
		"created": {nil, Fields{"a": encode(1), "b": encode(nil)}, ``, `{"a":1,"b":null}`},
		"deleted": {Fields{"a": encode("x")}, nil, `{"a":"x"}`, ``},
		"updated": {Fields{"a": encode(1), "b": encode(2)}, Fields{"a": encode(1), "b": encode(3)}, `{"b":2}`, `{"b":3}`},
		"added":   {Fields{"a": encode(1)}, Fields{"a": encode(1), "b": encode(3)}, ``, `{"b":3}`},
	} {
		c := NewChange(t.Context(), "key.update", subject, test.before, test.after)
		if string(c.Before) != test.wantBefore || string(c.After) != test.wantAfter {
			t.Errorf("%s: before %s, after %s", name, c.Before, c.After)
		}
	}
	same := Fields{"a": encode(1)}
	if c := NewChange(t.Context(), "key.update", subject, same, Fields{"a": encode(1)}); c != nil {
		t.Errorf("what changes nothing is recorded: %+v", c)
	}
}
