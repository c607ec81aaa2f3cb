package books

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// maxEmail is in bytes: the longest that SMTP can carry.
	maxEmail = 320
	// maxIdentity is of an issuer or a subject, in bytes: both must fit in an
	// entry of an index.
	maxIdentity = 1000
	// maxPersonName is in characters.
	maxPersonName = 200
)

// NewMember returns a member in the form that it is stored in.
func NewMember(m billing.Member) (billing.Member, error) {
	m.Email = billing.NormalizeEmail(m.Email)
	switch {
	case m.ID == "":
		return billing.Member{}, errors.New("member has no id")
	case !isEmail(m.Email):
		return billing.Member{}, errors.New("member has no e-mail address")
	case !slices.Contains(billing.Roles, m.Role):
		return billing.Member{}, fmt.Errorf("no member has the role %q", m.Role)
	case (m.Subject == "") != m.JoinedAt.IsZero() || (m.Subject == "") != (m.Issuer == ""):
		return billing.Member{}, errors.New("a member who has joined has an identity, and nobody else")
	case m.Subject != "" && (!isIdentity(m.Issuer) || !isIdentity(m.Subject)):
		return billing.Member{}, errors.New("issuer or subject is no plain text")
	}
	m.Name, m.InvitedBy = Text(m.Name), Text(m.InvitedBy)
	m.CreatedAt = Time(m.CreatedAt)
	m.JoinedAt = Time(m.JoinedAt)
	return m, nil
}

// ChangeMember lets change alter a member, within what may change: name and
// role. Another person is another member.
func ChangeMember(m billing.Member, change func(*billing.Member) error) (billing.Member, error) {
	changed := m
	if err := change(&changed); err != nil {
		return billing.Member{}, err
	}
	m.Name, m.Role = changed.Name, changed.Role
	return NewMember(m)
}

// OwnerLeaves tells whether a change of a member takes an owner from the
// organization. One who has not joined was none.
func OwnerLeaves(before, after billing.Member) bool {
	return isOwner(before) && !isOwner(after)
}

func isOwner(m billing.Member) bool { return m.Role == billing.RoleOwner && !m.JoinedAt.IsZero() }

// NewIdentity returns an identity in the form that members have it. Texts that
// a database cannot hold are refused and not replaced: two people must not
// become one.
func NewIdentity(who billing.Identity) (billing.Identity, error) {
	if !isIdentity(who.Issuer) || !isIdentity(who.Subject) {
		return billing.Identity{}, errors.New("identity without an issuer or a subject of plain text")
	}
	who.Email = billing.NormalizeEmail(who.Email)
	if !isEmail(who.Email) {
		who.Email = ""
	}
	name := []rune(strings.Map(printable, strings.ToValidUTF8(who.Name, "")))
	who.Name = string(name[:min(len(name), maxPersonName)])
	return who, nil
}

func isIdentity(s string) bool { return s != "" && len(s) <= maxIdentity && billing.IsPlainText(s) }

func isEmail(s string) bool { return s != "" && len(s) <= maxEmail && billing.IsPlainText(s) }

// printable drops control characters.
func printable(r rune) rune {
	if unicode.IsControl(r) {
		return -1
	}
	return r
}

// Join returns the member that an identity becomes by accepting an invitation.
func Join(who billing.Identity, m billing.Member, at time.Time) billing.Member {
	m.Issuer, m.Subject, m.JoinedAt = who.Issuer, who.Subject, Time(at)
	if m.Name == "" {
		m.Name = who.Name
	}
	return m
}
