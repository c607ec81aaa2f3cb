package books

import (
	"context"

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

// MemberJoined records that a member has accepted an invitation.
func MemberJoined(ctx context.Context, invited, m billing.Member) *billing.ChangeRecord {
	return NewChange(byInvited(ctx, m), "member.join", subjectOfMember(m), MemberFields(invited), MemberFields(m))
}

// MemberDeclined records that an invitation was declined.
func MemberDeclined(ctx context.Context, m billing.Member) *billing.ChangeRecord {
	return NewChange(byInvited(ctx, m), "member.decline", subjectOfMember(m), MemberFields(m), nil)
}

// byInvited returns a context in which changes are those of who is invited, and
// was nobody before.
func byInvited(ctx context.Context, m billing.Member) context.Context {
	actor := billing.ActorOf(ctx)
	actor.Kind, actor.ID, actor.Name = billing.ActorMember, m.ID, m.Email
	return billing.WithActor(ctx, actor)
}

// MemberDeleted records that a member is none any more.
func MemberDeleted(ctx context.Context, m billing.Member) *billing.ChangeRecord {
	return NewChange(ctx, "member.delete", subjectOfMember(m), MemberFields(m), nil)
}
