package columns

import (
	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// Entry are the columns of entries.
const Entry = `organization_id, seq, type, amount, balance_after, created_at, request_id, payment_id,
	reason, actor, idempotency_key, hash`

// ScanLine scans Entry.
func ScanLine(row Row) (books.Line, error) {
	var l books.Line
	err := row.Scan(&l.OrganizationID, &l.Seq, &l.Type, &l.Amount, &l.BalanceAfter, Time{&l.CreatedAt},
		&l.RequestID, &l.PaymentID, &l.Reason, &l.Actor, &l.IdempotencyKey, &l.Hash)
	l.ID = books.EntryID(l.Seq)
	return l, err
}

// ScanEntry scans Entry.
func ScanEntry(row Row) (billing.Entry, error) {
	l, err := ScanLine(row)
	return l.Entry, err
}

// ScanLease scans an allowance and the amount that is leased of it.
func ScanLease(row Row) (billing.Lease, error) {
	var l billing.Lease
	err := row.Scan(lease(&l)...)
	return l, err
}

// ScanLeased scans the same, and the part of it that one node has.
func ScanLeased(row Row) (books.Leased, error) {
	var l books.Leased
	err := row.Scan(append(lease(&l.Lease), &l.Own)...)
	return l, err
}

func lease(l *billing.Lease) []any {
	a := &l.Allowance
	return []any{&a.OrganizationID, &a.Subject, &a.Kind, &a.Period, Time{&a.Start}, &l.Amount}
}

// ScanNode scans a node, how many leases it has, and of how many credits.
func ScanNode(row Row) (billing.Node, error) {
	var n billing.Node
	err := row.Scan(&n.ID, &n.Incarnation, &n.Host, &n.Version, Time{&n.StartedAt}, Time{&n.SeenAt},
		&n.Beats, &n.LeaseTTL, &n.Expired, &n.Unposted, &n.Lag, &n.Leases, &n.Leased)
	return n, err
}
