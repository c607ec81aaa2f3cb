package books

import (
	"cmp"
	"context"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// KeyFields returns what is recorded of a key.
func KeyFields(k billing.Key) Fields {
	return newFields(map[string]any{
		"name":                       k.Name,
		"prefix":                     k.Prefix,
		"allowed_providers":          listOrEmpty(k.AllowedProviders),
		"allowed_models":             listOrEmpty(k.AllowedModels),
		"allowed_ips":                listOrEmpty(k.AllowedIPs),
		"owner_id":                   orNull(k.Owner),
		"project":                    orNull(k.Project),
		"rate_limit_rpm":             orNull(k.RateLimitRPM),
		"rate_limit_tpm":             orNull(k.RateLimitTPM),
		"max_concurrent":             orNull(k.MaxConcurrent),
		"usage_limit_nanos":          k.UsageLimit,
		"usage_soft_limit_nanos":     k.UsageSoftLimit,
		"usage_limit_reset":          cmp.Or(k.UsageLimitReset, billing.Never),
		"expires_at":                 timeOrNull(k.ExpiresAt),
		"revoked_at":                 timeOrNull(k.RevokedAt),
		"previous_secret_expires_at": timeOrNull(k.PreviousSecretExpiresAt),
	})
}

func subjectOfKey(k billing.Key) billing.ChangeSubject {
	return billing.ChangeSubject{OrganizationID: k.OrganizationID, Kind: billing.SubjectKey, ID: k.ID}
}

// KeyCreated records a new key.
func KeyCreated(ctx context.Context, k billing.Key) *billing.ChangeRecord {
	return NewChange(ctx, "key.create", subjectOfKey(k), nil, KeyFields(k))
}

// KeyUpdated records what has changed in a key since it had those fields.
func KeyUpdated(ctx context.Context, before Fields, k billing.Key) *billing.ChangeRecord {
	after := KeyFields(k)
	action := "key.update"
	if _, revoked := after.unlike(before)["revoked_at"]; revoked {
		action = "key.revoke"
	}
	return NewChange(ctx, action, subjectOfKey(k), before, after)
}

// KeyRotated records another secret of a key. How long the earlier one goes on
// working makes it differ, also where two secrets begin alike.
func KeyRotated(ctx context.Context, before, after billing.Key, r billing.Rotation) *billing.ChangeRecord {
	rotated := KeyFields(after)
	rotated["overlap_seconds"] = encode(int64(r.Overlap.Seconds()))
	return NewChange(ctx, "key.rotate", subjectOfKey(after), KeyFields(before), rotated)
}

// OrganizationFields returns what is recorded of an organization.
func OrganizationFields(o billing.Organization) Fields {
	hold := "estimate"
	if o.HoldStrict {
		hold = "strict"
	}
	return newFields(map[string]any{
		"name":           o.Name,
		"max_nanos":      o.Budget,
		"soft_nanos":     o.BudgetSoft,
		"period":         cmp.Or(o.BudgetPeriod, billing.Never),
		"week_start":     orNull(o.WeekStart),
		"hold":           hold,
		"rate_limit_rpm": orNull(o.RateLimitRPM),
	})
}

func subjectOfOrganization(o billing.Organization) billing.ChangeSubject {
	return billing.ChangeSubject{OrganizationID: o.ID, Kind: billing.SubjectOrganization, ID: o.ID}
}

// OrganizationCreated records a new organization.
func OrganizationCreated(ctx context.Context, o billing.Organization) *billing.ChangeRecord {
	return NewChange(ctx, "organization.create", subjectOfOrganization(o), nil, OrganizationFields(o))
}

// OrganizationUpdated records what has changed in an organization since it had
// those fields.
func OrganizationUpdated(ctx context.Context, before Fields, o billing.Organization) *billing.ChangeRecord {
	return NewChange(ctx, "organization.update", subjectOfOrganization(o), before, OrganizationFields(o))
}

// ProjectFields returns what is recorded of a project.
func ProjectFields(p billing.Project) Fields {
	return newFields(map[string]any{
		"max_nanos":  p.Budget,
		"soft_nanos": p.BudgetSoft,
		"period":     cmp.Or(p.BudgetPeriod, billing.Never),
	})
}

func subjectOfProject(p billing.Project) billing.ChangeSubject {
	return billing.ChangeSubject{OrganizationID: p.OrganizationID, Kind: billing.SubjectProject, ID: p.Name}
}

// ProjectPut records what has changed in a project since it had those fields,
// nil for a new one.
func ProjectPut(ctx context.Context, before Fields, p billing.Project) *billing.ChangeRecord {
	action := "project.update"
	if before == nil {
		action = "project.create"
	}
	return NewChange(ctx, action, subjectOfProject(p), before, ProjectFields(p))
}

// ProjectDeleted records that a project's settings are no more.
func ProjectDeleted(ctx context.Context, p billing.Project) *billing.ChangeRecord {
	return NewChange(ctx, "project.delete", subjectOfProject(p), ProjectFields(p), nil)
}

// EntryAppended records an entry that is not a usage debit.
func EntryAppended(ctx context.Context, e billing.Entry) *billing.ChangeRecord {
	subject := billing.ChangeSubject{OrganizationID: e.OrganizationID, Kind: billing.SubjectEntry, ID: e.ID}
	return NewChange(ctx, "entry.append", subject, nil, newFields(map[string]any{
		"type":                e.Type,
		"amount_nanos":        e.Amount,
		"balance_after_nanos": e.BalanceAfter,
		"created_at":          e.CreatedAt,
		"request_id":          orNull(e.RequestID),
		"payment_id":          orNull(e.PaymentID),
		"reason":              orNull(e.Reason),
		"actor":               orNull(e.Actor),
	}))
}
