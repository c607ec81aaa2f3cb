package stripe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// The metadata of a checkout session says what to grant once it is paid. Only
// who has the secret key can write it.
const (
	metadataOrganization = "llm_gateway_organization"
	metadataPackage      = "llm_gateway_package"
	metadataCredits      = "llm_gateway_credits_nanos"
	metadataActor        = "llm_gateway_actor"
)

// nobodyNamed is the actor of purchases whose session does not say who made it.
const nobodyNamed = "stripe"

// maxMetadata is the longest value that Stripe takes, in characters.
const maxMetadata = 500

// grant is what a payment buys.
type grant struct {
	organization string
	packageID    string
	credits      billing.Money
	// actor is who has ordered it.
	actor string
}

func (g grant) write(params *stripe.CheckoutSessionParams) {
	params.AddMetadata(metadataOrganization, g.organization)
	params.AddMetadata(metadataPackage, g.packageID)
	params.AddMetadata(metadataCredits, strconv.FormatInt(int64(g.credits), 10))
	if g.actor != "" {
		name := []rune(g.actor)
		params.AddMetadata(metadataActor, string(name[:min(len(name), maxMetadata)]))
	}
}

func readGrant(metadata map[string]string) (grant, error) {
	credits, err := strconv.ParseInt(metadata[metadataCredits], 10, 64)
	g := grant{
		organization: metadata[metadataOrganization],
		packageID:    metadata[metadataPackage],
		credits:      billing.Money(credits),
		actor:        cmp.Or(metadata[metadataActor], nobodyNamed),
	}
	if err != nil || g.organization == "" || g.packageID == "" || g.credits <= 0 {
		return grant{}, fmt.Errorf("metadata does not say what to grant: organization %q, package %q, credits %q",
			g.organization, g.packageID, metadata[metadataCredits])
	}
	return g, nil
}

// isOurs tells whether a session was made by a gateway. The account may sell
// other things too.
func isOurs(s *stripe.CheckoutSession) bool {
	for _, name := range []string{metadataOrganization, metadataPackage, metadataCredits} {
		if _, ok := s.Metadata[name]; ok {
			return true
		}
	}
	return false
}

// Webhook takes an event from Stripe and grants what it says is paid. The same
// payment is granted once, however often it is delivered. Events that concern
// nothing here are taken and ignored. Errors: ErrWebhook; ErrNotFound for an
// organization that does not exist; ErrConflict for a payment that was granted
// before with other content.
func (p Purchaser) Webhook(ctx context.Context, body []byte, signature string) error {
	event, err := webhook.ConstructEventWithOptions(body, signature, p.Checkout.webhookSecret,
		webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true}) // what is read is the same in all of them
	if err != nil {
		return fmt.Errorf("%w: %w", billing.ErrWebhook, err)
	}
	switch event.Type {
	case stripe.EventTypeCheckoutSessionCompleted, stripe.EventTypeCheckoutSessionAsyncPaymentSucceeded:
	default:
		return nil
	}
	if event.Data == nil {
		return fmt.Errorf("event %s: no data", event.ID)
	}
	var s stripe.CheckoutSession
	if err := json.Unmarshal(event.Data.Raw, &s); err != nil {
		return fmt.Errorf("event %s: read checkout session: %w", event.ID, err)
	}
	// A session that is complete but unpaid waits for its bank. Another event
	// tells the end of it.
	if !isOurs(&s) || s.PaymentStatus != stripe.CheckoutSessionPaymentStatusPaid {
		return nil
	}
	if err := p.grant(ctx, &s); err != nil {
		return fmt.Errorf("event %s: checkout session %s: %w", event.ID, s.ID, err)
	}
	return nil
}

// grant appends the purchase that a paid session stands for.
func (p Purchaser) grant(ctx context.Context, s *stripe.CheckoutSession) error {
	if s.Currency != stripe.CurrencyUSD {
		return fmt.Errorf("paid in %q, want usd", s.Currency)
	}
	g, err := readGrant(s.Metadata)
	if err != nil {
		return err
	}
	payment := s.ID
	if s.PaymentIntent != nil && s.PaymentIntent.ID != "" {
		payment = s.PaymentIntent.ID
	}
	if payment == "" {
		return errors.New("payment has no id")
	}
	_, err = p.Ledger.Append(ctx, billing.Entry{
		OrganizationID: g.organization,
		Type:           billing.Purchase,
		Amount:         g.credits,
		PaymentID:      payment,
		Reason:         "package " + g.packageID,
		Actor:          g.actor,
		IdempotencyKey: "stripe:" + payment,
	})
	if err != nil {
		return fmt.Errorf("grant package %s to %s: %w", g.packageID, g.organization, err)
	}
	return nil
}
