package billing

import (
	"context"
	"encoding/json"
	"time"
)

// SubjectKind says what a change is of.
type SubjectKind string

const (
	SubjectKey          SubjectKind = "key"
	SubjectOrganization SubjectKind = "organization"
	SubjectProject      SubjectKind = "project"
	SubjectEntry        SubjectKind = "entry"
	SubjectMember       SubjectKind = "member"
	SubjectToken        SubjectKind = "token"
)

// SubjectKinds are all of them.
var SubjectKinds = []SubjectKind{
	SubjectKey, SubjectOrganization, SubjectProject, SubjectEntry, SubjectMember, SubjectToken,
}

// ChangeSubject is what was changed.
type ChangeSubject struct {
	// OrganizationID is "" for what belongs to the gateway itself.
	OrganizationID string
	Kind           SubjectKind
	// ID is the name of a project.
	ID string
}

// ChangeRecord says who changed what. It holds no secret, nor the hash of one.
type ChangeRecord struct {
	ID    string
	At    time.Time
	Actor Actor
	// Action is the kind of the subject and what was done, such as key.update.
	Action  string
	Subject ChangeSubject
	// Before and After are JSON objects of the fields that differ, by the names
	// and in the units of the management API. Before is nil for what was created,
	// After for what was deleted.
	Before, After json.RawMessage
}

// ChangeFilter selects changes. Zero values select all.
type ChangeFilter struct {
	// From is inclusive, To exclusive.
	From, To time.Time
	// ID is that of one change.
	ID string
	// Actor is an actor's id or name.
	Actor       string
	Action      string
	SubjectKind SubjectKind
	SubjectID   string
}

// ChangeLog is the append-only record of who changed what. The store itself
// records each change of a key, a project or an organization, and each entry but
// the usage debits, in the transaction that makes it and as ActorOf its context.
// What changes nothing is not recorded, nor are uses of keys.
type ChangeLog interface {
	// ListChanges returns an organization's changes, those of the gateway itself
	// for "", newest first: in the order in which they were committed, so that
	// whoever has seen one can see all before it. A page after an unknown change
	// is ErrNotFound.
	ListChanges(ctx context.Context, org string, f ChangeFilter, page Page) ([]ChangeRecord, error)
}
