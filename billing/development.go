package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// DevelopmentPurchaser grants what is ordered at once and takes no payment.
type DevelopmentPurchaser struct {
	Ledger Ledger
}

// Purchase appends a purchase of the package's credits. It returns ErrConflict
// for an idempotency key that was used for another package.
func (p DevelopmentPurchaser) Purchase(ctx context.Context, o Order) (Receipt, error) {
	payment := developmentPayment(o)
	entry, err := p.Ledger.Append(ctx, Entry{
		OrganizationID: o.OrganizationID,
		Type:           Purchase,
		Amount:         o.Package.Credits,
		PaymentID:      payment,
		Reason:         "package " + o.Package.ID,
		Actor:          o.Actor,
		IdempotencyKey: "purchase:" + payment,
	})
	if err != nil {
		return Receipt{}, fmt.Errorf("granting package %s: %w", o.Package.ID, err)
	}
	return Receipt{Entry: &entry}, nil
}

// developmentPayment names the payment that was not made. A repeated order
// must come out as the same entry, so its payment follows from its key.
func developmentPayment(o Order) string {
	if o.IdempotencyKey == "" {
		return NewID("dev", time.Now())
	}
	sum := sha256.Sum256([]byte(o.IdempotencyKey))
	return "dev_" + hex.EncodeToString(sum[:16])
}

var _ Purchaser = DevelopmentPurchaser{}
