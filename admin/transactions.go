package admin

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// TransactionQuery is all that selects and orders transactions.
type TransactionQuery struct {
	Interval
	Type []string `query:"type,explode" maxItems:"10" enum:"purchase,usage_debit,adjustment,refund,dispute" doc:"Transactions of this type. It may be repeated."`
	Sorting
}

func (q *TransactionQuery) filter() (billing.EntryFilter, error) {
	var f faults
	var out billing.EntryFilter
	out.From, out.To = q.Interval.read(&f)
	for _, t := range q.Type {
		out.Types = append(out.Types, billing.EntryType(t))
	}
	return out, f.err()
}

type transactionsInput struct {
	Paging
	TransactionQuery
}

func (a *api) listTransactions(ctx context.Context, in *transactionsInput) (*body[list[transaction]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	page.OldestFirst = in.oldestFirst()
	f, err := in.filter()
	if err != nil {
		return nil, err
	}
	found, err := a.gateway.Store().Transactions(ctx, organizationOf(ctx), f, page)
	if err != nil {
		return nil, listError("transactions", err)
	}
	entries, next := cut(in.Paging, found, func(e billing.Entry) string { return e.ID })
	return &body[list[transaction]]{list[transaction]{Data: mapped(entries, newTransaction), NextCursor: next}}, nil
}

type transactionsExportInput struct {
	ExportOptions
	TransactionQuery
}

func (a *api) exportTransactions(ctx context.Context, in *transactionsExportInput) (*huma.StreamResponse, error) {
	f, err := in.filter()
	if err != nil {
		return nil, err
	}
	f.To = in.endOfFile(f.To)
	org := organizationOf(ctx)
	return export(ctx, a, &in.ExportOptions, exported[billing.Entry, transaction]{
		name:  "transactions",
		start: billing.Page{OldestFirst: in.oldestFirst()},
		page: func(ctx context.Context, page billing.Page) ([]billing.Entry, error) {
			return a.gateway.Store().Transactions(ctx, org, f, page)
		},
		find: func(ctx context.Context, id string) ([]billing.Entry, error) {
			one := f
			one.ID = id
			return a.gateway.Store().Transactions(ctx, org, one, billing.Page{Limit: 1})
		},
		id:      func(e *billing.Entry) string { return e.ID },
		row:     newTransaction,
		columns: transactionColumns,
	})
}

// transactionColumns are those of the CSV file: the fields of a transaction, and
// the amounts in dollars too.
var transactionColumns = []column[transaction]{
	{"id", func(c *cells, t *transaction) { c.text(t.ID) }},
	{"type", func(c *cells, t *transaction) { c.text(t.Type) }},
	{"amount_usd", func(c *cells, t *transaction) { c.dollars(t.AmountNanos) }},
	{"amount_nanos", func(c *cells, t *transaction) { c.number(int64(t.AmountNanos)) }},
	{"balance_after_usd", func(c *cells, t *transaction) { c.dollars(t.BalanceAfterNanos) }},
	{"balance_after_nanos", func(c *cells, t *transaction) { c.number(int64(t.BalanceAfterNanos)) }},
	{"created_at", func(c *cells, t *transaction) { c.time(t.CreatedAt) }},
	{"request_id", func(c *cells, t *transaction) { c.optional(t.RequestID) }},
	{"payment_id", func(c *cells, t *transaction) { c.optional(t.PaymentID) }},
	{"reason", func(c *cells, t *transaction) { c.optional(t.Reason) }},
	{"actor", func(c *cells, t *transaction) { c.optional(t.Actor) }},
}
