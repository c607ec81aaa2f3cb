package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// key is a proxy key in answers.
type key struct {
	ID                      string         `json:"id"`
	Name                    string         `json:"name"`
	Prefix                  string         `json:"prefix"`
	Status                  string         `json:"status"`
	AllowedProviders        []string       `json:"allowed_providers"`
	AllowedModels           []string       `json:"allowed_models"`
	AllowedIPs              []string       `json:"allowed_ips"`
	Project                 *string        `json:"project"`
	OwnerID                 *string        `json:"owner_id"`
	RateLimitRPM            *int64         `json:"rate_limit_rpm"`
	RateLimitTPM            *int64         `json:"rate_limit_tpm"`
	MaxConcurrent           *int64         `json:"max_concurrent"`
	UsageLimitDollars       *dollars       `json:"usage_limit_dollars"`
	UsageSoftLimitDollars   *dollars       `json:"usage_soft_limit_dollars"`
	UsageLimitReset         string         `json:"usage_limit_reset"`
	ExpiresAt               *time.Time     `json:"expires_at"`
	PreviousSecretExpiresAt *time.Time     `json:"previous_secret_expires_at"`
	CreatedAt               time.Time      `json:"created_at"`
	LastUsedAt              *time.Time     `json:"last_used_at"`
	SpendNanos              metering.Money `json:"spend_nanos"`
	version
}

// createdKey holds the secret of a key, which is shown once.
type createdKey struct {
	Key      string `json:"key"`
	ProxyKey key    `json:"proxy_key"`
}

func (c *createdKey) readFrom(h http.Header) { c.ProxyKey.readFrom(h) }

func keysCommand() *cobra.Command {
	return noun(&cobra.Command{
		Use:   "keys",
		Short: "Creates, lists, edits, rotates and revokes proxy keys",
		Long: `Proxy keys are what programs use in the place of a provider's credential. They
say whose credits are spent, and may be limited: to providers, models and
addresses, in their rate and in what they spend.`,
		Example: `  caddy llm-gateway keys create --name laptop
  caddy llm-gateway keys list`,
	}, func(s *settings) []*cobra.Command {
		return []*cobra.Command{
			listKeysCommand(s), createKeyCommand(s), showKeyCommand(s), editKeyCommand(s),
			revokeKeyCommand(s), rotateKeyCommand(s), keyUsageCommand(s),
		}
	})
}

func listKeysCommand(s *settings) *cobra.Command {
	f := filterFlags{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists the keys, newest first, revoked ones included",
		Long: `Lists the organization's keys, newest first, with what each has spent in the
current period of its limit, or ever if it has none.`,
		Example: `  caddy llm-gateway keys list
  caddy llm-gateway keys list --status active --project search
  caddy llm-gateway keys list --all --json | jq -r '.data[].id'`,
		Args: exactly(),
	}
	f.addTo(cmd,
		filterFlag{"status", "status", "keys that are active, expired or revoked"},
		filterFlag{"project", "project", "keys of this project"},
		filterFlag{"owner-id", "owner_id", "keys of the member of this id"},
		filterFlag{"search", "q", "keys whose name contains this text"},
	)
	complete(cmd, "status", "active", "expired", "revoked")
	addList(cmd, s, pathOf("keys"), f.query, view[key]{
		columns: []column{
			left("ID"), left("NAME"), left("STATUS"), left("PREFIX"),
			right("SPENT"), right("LIMIT"), left("RESET"), left("LAST USED"),
		},
		row: func(k key) []string {
			return []string{
				k.ID, printable(k.Name), k.Status, k.Prefix,
				usd(k.SpendNanos), limit(k.UsageLimitDollars), k.UsageLimitReset, moment(k.LastUsedAt),
			}
		},
	})
	return cmd
}

func createKeyCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create --name NAME [flags]",
		Short: "Creates a key and prints its secret, once",
		Long: `Creates a proxy key and prints its secret. It is the only time that the secret
is shown: the gateway keeps a hash of it.

What is not limited is allowed. Fields are as in the management API.`,
		Example: `  caddy llm-gateway keys create --name laptop
  caddy llm-gateway keys create --name ci --allowed-models 'gpt-4o*' --usage-limit-dollars 25.00 --usage-limit-reset monthly
  PROXY_KEY=$(caddy llm-gateway keys create --name script --json | jq -r .key)`,
		Args: exactly(),
	}
	in := newInput(cmd)
	keyFields(in)
	addCreate(in, s, pathOf("keys"), showSecret)
	return cmd
}

func showKeyCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "show <id>",
		Short:   "Shows one key",
		Long:    "Shows all fields of a key, and what it has spent.",
		Example: "  caddy llm-gateway keys show key_01jd...",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			return answer(ctx, s, get(pathOf("keys", args[0]), nil), showKey)
		}),
	}
}

func editKeyCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "edit <id> [flags]",
		Short: "Changes fields of a key",
		Long: `Changes the fields whose flags are given; the others stay as they are. The
next request on the gateway that is asked sees it, and those on others within a
second.`,
		Example: `  caddy llm-gateway keys edit key_01jd... --rate-limit-rpm 60
  caddy llm-gateway keys edit key_01jd... --usage-limit-dollars none --allowed-models ''`,
		Args: exactly("id"),
	}
	in := newInput(cmd)
	keyFields(in)
	addEdit(in, s, http.MethodPatch, func(args []string) string { return pathOf("keys", args[0]) }, showKey)
	return cmd
}

func revokeKeyCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke <id>",
		Short: "Revokes a key, for good",
		Long: `Revokes a key and all of its secrets, which cannot be undone. The key stays in
lists and in the audit trail. Revoking it again changes nothing.`,
		Example: "  caddy llm-gateway keys revoke key_01jd...",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			return answer(ctx, s, call{method: http.MethodPost, path: pathOf("keys", args[0], "revoke")}, showKey)
		}),
	}
}

func rotateKeyCommand(s *settings) *cobra.Command {
	var overlap time.Duration
	var once idempotency
	cmd := &cobra.Command{
		Use:   "rotate <id>",
		Short: "Gives a key another secret, and prints it, once",
		Long: `Gives a key another secret, and prints it. The one before goes on working for
the overlap, so that programs can be changed one after the other.`,
		Example: `  caddy llm-gateway keys rotate key_01jd...
  caddy llm-gateway keys rotate key_01jd... --overlap 0s    # the secret is in wrong hands`,
		Args: exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			if overlap < 0 || overlap%time.Second != 0 {
				return misusef("--overlap %s: expected whole seconds, and not less than none", overlap)
			}
			return answer(ctx, s, call{
				method: http.MethodPost, path: pathOf("keys", args[0], "rotate"),
				body:           map[string]any{"overlap_seconds": int64(overlap / time.Second)},
				idempotencyKey: once.name(),
			}, showSecret)
		}),
	}
	cmd.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the secret from before goes on working, in hours, minutes and seconds such as 24h or 1h30m, at most 720h; 0s ends all earlier ones at once")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w; durations are written such as 24h or 1h30m", err)
	})
	once.addTo(cmd)
	return cmd
}

func keyUsageCommand(s *settings) *cobra.Command {
	var q usageQuery
	cmd := &cobra.Command{
		Use:     "usage <id>",
		Short:   "Shows what one key has used",
		Long:    "Shows requests, tokens and costs of one key, in total or in groups.",
		Example: "  caddy llm-gateway keys usage key_01jd... --from 2026-11-01 --group-by date,model",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			return answer(ctx, s, get(pathOf("keys", args[0], "usage"), q.values()), showUsage)
		}),
	}
	q.addTo(cmd)
	return cmd
}

// showSecret prints the secret alone in its line, so that it is not missed.
func showSecret(w io.Writer, c createdKey) error {
	fmt.Fprintf(w, "The secret of the key, which is not shown again:\n\n  %s\n\n", c.Key)
	return showKey(w, c.ProxyKey)
}

func showKey(w io.Writer, k key) error {
	return fields(w,
		field{"ID", k.ID},
		field{"Name", printable(k.Name)},
		field{"Status", k.Status},
		field{"Prefix", k.Prefix},
		field{"Providers", each(k.AllowedProviders)},
		field{"Models", each(k.AllowedModels)},
		field{"Addresses", each(k.AllowedIPs)},
		field{"Project", text(k.Project)},
		field{"Owner", text(k.OwnerID)},
		field{"Requests per minute", number(k.RateLimitRPM)},
		field{"Tokens per minute", number(k.RateLimitTPM)},
		field{"Open requests", number(k.MaxConcurrent)},
		field{"Spent", usd(k.SpendNanos)},
		field{"Limit", limit(k.UsageLimitDollars)},
		field{"Soft limit", limit(k.UsageSoftLimitDollars)},
		field{"Reset", k.UsageLimitReset},
		field{"Expires", moment(k.ExpiresAt)},
		field{"Earlier secret until", moment(k.PreviousSecretExpiresAt)},
		field{"Created", moment(&k.CreatedAt)},
		field{"Last used", moment(k.LastUsedAt)},
		field{"Version", k.shown()},
	)
}
