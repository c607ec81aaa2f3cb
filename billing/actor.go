package billing

import "context"

// ActorKind says what an Actor is.
type ActorKind string

const (
	// ActorSystem is the gateway itself.
	ActorSystem ActorKind = "system"
	// ActorOperator has an operator's token.
	ActorOperator ActorKind = "operator"
	// ActorMember is a member of an organization.
	ActorMember ActorKind = "member"
)

// Actor is who changes something, and from where.
type Actor struct {
	Kind ActorKind
	// ID and Name of the operator token or the member.
	ID, Name  string
	ClientIP  string
	UserAgent string
}

type actorKey struct{}

// WithActor returns a context in which changes are the actor's.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf is who changes something in this context: the gateway itself, if
// nobody else.
func ActorOf(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{Kind: ActorSystem}
}
