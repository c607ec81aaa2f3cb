package columns

import "github.com/caddy-llm-gateway/gateway/billing"

// Organization are the columns of organizations, which are called o.
const Organization = `o.id, o.name, o.created_at, o.budget, o.budget_period, o.hold_strict,
	o.budget_soft, o.week_start, o.rate_limit_rpm`

// ScanOrganization scans Organization.
func ScanOrganization(row Row) (billing.Organization, error) {
	var o billing.Organization
	err := row.Scan(organization(&o)...)
	return o, err
}

func organization(o *billing.Organization) []any {
	return []any{
		&o.ID, &o.Name, Time{&o.CreatedAt}, &o.Budget, &o.BudgetPeriod, &o.HoldStrict,
		&o.BudgetSoft, &o.WeekStart, &o.RateLimitRPM,
	}
}

// ScanAccount scans Organization and its balance.
func ScanAccount(row Row) (billing.Account, error) {
	var a billing.Account
	err := row.Scan(append(organization(&a.Organization), &a.Balance)...)
	return a, err
}

// Project are the columns of projects.
const Project = `organization_id, name, created_at, budget, budget_period, budget_soft`

// ScanProject scans Project.
func ScanProject(row Row) (billing.Project, error) {
	var p billing.Project
	err := row.Scan(&p.OrganizationID, &p.Name, Time{&p.CreatedAt}, &p.Budget, &p.BudgetPeriod, &p.BudgetSoft)
	return p, err
}

// Key are the columns of keys.
const Key = `id, organization_id, name, hash, prefix, allowed_providers, allowed_models, allowed_ips,
	rate_limit_rpm, usage_limit, usage_limit_reset, expires_at, revoked_at, created_at, last_used_at,
	project, rate_limit_tpm, max_concurrent, usage_soft_limit, previous_secret_expires_at, owner`

// ScanKey scans Key.
func ScanKey(row Row) (billing.Key, error) {
	var k billing.Key
	err := row.Scan(KeyFields(&k)...)
	return k, err
}

// KeyFields are what Key is scanned into, for queries that have more columns.
func KeyFields(k *billing.Key) []any {
	return []any{
		&k.ID, &k.OrganizationID, &k.Name, Hash{&k.Hash}, &k.Prefix,
		List{&k.AllowedProviders}, List{&k.AllowedModels}, List{&k.AllowedIPs},
		&k.RateLimitRPM, &k.UsageLimit, &k.UsageLimitReset,
		Time{&k.ExpiresAt}, Time{&k.RevokedAt}, Time{&k.CreatedAt}, Time{&k.LastUsedAt},
		&k.Project, &k.RateLimitTPM, &k.MaxConcurrent, &k.UsageSoftLimit,
		Time{&k.PreviousSecretExpiresAt}, &k.Owner,
	}
}
