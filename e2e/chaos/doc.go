// Package chaos breaks a running gateway on purpose and then compares the
// books with what clients saw and what the provider served.
//
// It starts a PostgreSQL cluster of its own behind a TCP proxy, several
// gateway processes (the built binary) on journals of their own, and, in this
// process, where nothing that it does to the gateways can harm it, the
// scripted provider. Clients of all three protocols send requests; faults are
// injected; then everything is brought up again and reconciled, request by
// request. See reconcile.go for what must be true then.
//
//	make chaos-short                          # about two minutes
//	make chaos                                # about ten
//	go test ./chaos -v -chaos.scenarios kills -chaos.kills 100 -chaos.seed 7
//
// A request is the same one for the client, the provider and the books by its
// marker, a unique word that the client sends both as its User-Agent, which
// the audit row records, and as the id of the sandbox's script, which the
// sandbox records. Neither depends on the ids that the gateway gives out.
//
// The choice of faults, moments and requests is made from a seed, which is
// printed. What the processes make of it is up to the scheduler.
package chaos
