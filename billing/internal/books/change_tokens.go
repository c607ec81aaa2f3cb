package books

import (
	"context"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// TokenFields returns what is recorded of an operator token.
func TokenFields(t billing.OperatorToken) Fields {
	return newFields(map[string]any{
		"name":       t.Name,
		"prefix":     t.Prefix,
		"created_by": t.CreatedBy,
		"expires_at": timeOrNull(t.ExpiresAt),
		"revoked_at": timeOrNull(t.RevokedAt),
	})
}

// Tokens belong to no organization.
func subjectOfToken(t billing.OperatorToken) billing.ChangeSubject {
	return billing.ChangeSubject{Kind: billing.SubjectToken, ID: t.ID}
}

// TokenCreated records a new operator token.
func TokenCreated(ctx context.Context, t billing.OperatorToken) *billing.ChangeRecord {
	return NewChange(ctx, "token.create", subjectOfToken(t), nil, TokenFields(t))
}

// TokenRevoked records that an operator token has ended.
func TokenRevoked(ctx context.Context, before, after billing.OperatorToken) *billing.ChangeRecord {
	return NewChange(ctx, "token.revoke", subjectOfToken(after), TokenFields(before), TokenFields(after))
}
