package books

import (
	"context"
	"slices"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// MemberFields returns what is recorded of a member.
func MemberFields(m billing.Member) Fields {
	return newFields(map[string]any{
		"email":      m.Email,
		"name":       m.Name,
		"role":       m.Role,
		"issuer":     orNull(m.Issuer),
		"subject":    orNull(m.Subject),
		"invited_by": orNull(m.InvitedBy),
		"joined_at":  timeOrNull(m.JoinedAt),
	})
}

func subjectOfMember(m billing.Member) billing.ChangeSubject {
	return billing.ChangeSubject{OrganizationID: m.OrganizationID, Kind: billing.SubjectMember, ID: m.ID}
}

// MemberCreated records a new member.
func MemberCreated(ctx context.Context, m billing.Member) *billing.ChangeRecord {
	return NewChange(ctx, "member.create", subjectOfMember(m), nil, MemberFields(m))
}

// MemberUpdated records what has changed in a member.
func MemberUpdated(ctx context.Context, before, after billing.Member) *billing.ChangeRecord {
	return NewChange(ctx, "member.update", subjectOfMember(after), MemberFields(before), MemberFields(after))
}

// MemberJoined records that a member, one of those found, has accepted an
// invitation: the member did so, who was nobody before.
func MemberJoined(ctx context.Context, found []billing.Member, m billing.Member) *billing.ChangeRecord {
	invited := slices.IndexFunc(found, func(f billing.Member) bool {
		return f.OrganizationID == m.OrganizationID && f.ID == m.ID
	})
	actor := billing.ActorOf(ctx)
	actor.Kind, actor.ID, actor.Name = billing.ActorMember, m.ID, m.Email
	return NewChange(billing.WithActor(ctx, actor), "member.join", subjectOfMember(m), MemberFields(found[invited]), MemberFields(m))
}

// MemberDeleted records that a member is none any more.
func MemberDeleted(ctx context.Context, m billing.Member) *billing.ChangeRecord {
	return NewChange(ctx, "member.delete", subjectOfMember(m), MemberFields(m), nil)
}
