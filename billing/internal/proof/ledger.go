package proof

import (
	"context"
	"fmt"
	"strconv"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// Ledger is the state of an organization's ledger up to an entry.
type Ledger struct {
	// Entries is how many there are so far.
	Entries int64
	Balance billing.Money
	// Credited and Debited are the sums of the entries other than usage
	// debits, and of these.
	Credited, Debited billing.Money
	// Hash stands for all columns of all entries so far.
	Hash []byte
}

// account is what the books say of a ledger, beside its entries.
type account struct {
	books.Account
	// credited and settled are those of the organization's credits.
	credited, settled billing.Money
	// last is the number of the last entry.
	last int64
	// remembered is how far the ledger was verified before.
	remembered Ledger
}

// ledger verifies an organization's entries, its debits with their rows, and
// the sums of both. It returns where the ledger is now; nil if that is known
// or not sound.
func (p *proof) ledger(ctx context.Context, org string) (*Ledger, error) {
	before := p.report.found
	a, err := p.books.account(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("read account: %w", err)
	}
	history := p.report.of(billing.CheckHistory, org, "ledger")
	if a.last < a.remembered.Entries {
		history.number("entries", a.remembered.Entries, a.last)
	}
	c := &chain{proof: p, org: org, remembered: a.remembered, withoutRows: droppedDebits{}}
	if !p.full {
		c.Ledger, c.last = a.remembered, a.remembered.Entries
		c.lastBalance = c.Balance
	}
	c.whole = c.Entries == 0
	if err := c.follow(ctx); err != nil {
		return nil, err
	}
	if c.whole {
		if err := c.withoutRows.compare(ctx, p, org); err != nil {
			return nil, err
		}
	}
	balances := p.report.of(billing.CheckBalances, org, "account")
	balances.number("balance", int64(c.Balance), int64(a.Balance))
	balances.number("entries", c.Entries, a.Entries)
	credits := p.report.of(billing.CheckAllowances, org, allowanceName(billing.CreditsOf(org)))
	credits.number("credited", int64(c.Credited), int64(a.credited))
	// What is settled is compared with the costs of rows as well: so a row
	// without its debit is found without looking for the debit of each row.
	credits.number("settled", int64(c.Debited), int64(a.settled))
	if p.full {
		if err := p.undebited(ctx, org); err != nil {
			return nil, err
		}
	}
	if p.report.found > before || c.Entries == a.remembered.Entries {
		return nil, nil
	}
	return &c.Ledger, nil
}

// undebited reports rows with a cost that have no debit.
func (p *proof) undebited(ctx context.Context, org string) error {
	err := p.books.undebited(ctx, org, func(id string, cost billing.Money) {
		p.report.of(billing.CheckDebits, org, requestName(id)).
			add(cost, "debit", strconv.FormatInt(-int64(cost), 10), nothing)
	})
	if err != nil {
		return fmt.Errorf("look for rows without debits: %w", err)
	}
	return nil
}

// chain follows an organization's entries in their order.
type chain struct {
	*proof
	org string
	Ledger
	remembered Ledger
	// last and lastBalance are what the entry before says it is.
	last        int64
	lastBalance billing.Money
	// whole tells that all entries are read: only then may some have no row. What
	// is dropped was verified before.
	whole       bool
	withoutRows droppedDebits
}

func (c *chain) follow(ctx context.Context) error {
	for {
		lines, err := c.books.entries(ctx, c.org, c.last)
		if err != nil {
			return fmt.Errorf("read entries: %w", err)
		}
		var ids []string
		for i := range lines {
			if lines[i].Type == billing.UsageDebit {
				ids = append(ids, lines[i].RequestID)
			}
		}
		rows, err := c.books.requests(ctx, c.org, ids)
		if err != nil {
			return fmt.Errorf("read requests of debits: %w", err)
		}
		for i := range lines {
			c.add(&lines[i])
			if l := &lines[i]; l.Type == billing.UsageDebit {
				c.debit(l, rows[l.RequestID])
			} else {
				c.other(l)
			}
		}
		c.entries += int64(len(lines))
		c.requests += int64(len(rows))
		if len(lines) < pageSize {
			return nil
		}
	}
}

// add moves the ledger along by a line, which must follow the one before.
func (c *chain) add(l *books.Line) {
	s := c.report.of(billing.CheckBalances, c.org, entryName(l.Seq))
	s.number("number", c.last+1, l.Seq)
	s.number("balance_after", int64(c.lastBalance+l.Amount), int64(l.BalanceAfter))
	c.last, c.lastBalance = l.Seq, l.BalanceAfter
	c.Entries++
	c.Balance += l.Amount
	if l.Type == billing.UsageDebit {
		c.Debited -= l.Amount
	} else {
		c.Credited += l.Amount
	}
	c.Hash = books.Chain(c.Hash, l)
	if c.full && c.Entries == c.remembered.Entries {
		s := c.report.of(billing.CheckHistory, c.org, "entries up to "+entryName(l.Seq))
		s.number("balance", int64(c.remembered.Balance), int64(c.Balance))
		s.number("credited", int64(c.remembered.Credited), int64(c.Credited))
		s.number("debited", int64(c.remembered.Debited), int64(c.Debited))
		s.hash(c.remembered.Hash, c.Hash)
	}
}

// debit compares a usage debit with its row, nil if there is none.
func (c *chain) debit(l *books.Line, r *Request) {
	s := c.report.of(billing.CheckDebits, c.org, entryName(l.Seq))
	s.text("idempotency_key", books.DebitKey(l.RequestID), l.IdempotencyKey)
	s.text("payment_id, reason and actor", "", l.PaymentID+l.Reason+l.Actor)
	if r == nil && c.whole && l.RequestID < c.kept {
		c.withoutRows.add(l.CreatedAt, 1, -l.Amount)
		return
	}
	if r == nil {
		s.add(l.Amount, requestName(l.RequestID), strconv.FormatInt(-int64(l.Amount), 10), nothing)
		return
	}
	s.number("amount", -int64(r.Cost), int64(l.Amount))
	s.time("created_at", r.At, l.CreatedAt)
	c.report.of(billing.CheckContent, c.org, entryName(l.Seq)).hash(r.Hash, l.Hash)
	c.content(r)
}

// other checks an entry that is not a usage debit.
func (c *chain) other(l *books.Line) {
	c.report.of(billing.CheckContent, c.org, entryName(l.Seq)).hash(books.EntryHash(l.Entry), l.Hash)
}

// content compares a row's columns with its hash.
func (p *proof) content(r *Request) {
	p.report.of(billing.CheckContent, r.OrganizationID, requestName(r.RequestID)).
		hash(books.ContentHash(&r.Settlement, r.Sheet), r.Hash)
}
