package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// token is an operator's token, without its secret.
type token struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Prefix     string     `json:"prefix"`
	Status     string     `json:"status"`
	CreatedBy  *string    `json:"created_by"`
	CreatedAt  *time.Time `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

func tokensCommand() *cobra.Command {
	return noun(&cobra.Command{
		Use:   "tokens",
		Short: "Creates, lists and revokes operator tokens",
		Long: `Operator tokens open the management API for all organizations. Give each person
and each program one of their own, so that changes tell who made them and each
can be revoked alone; the admin_token of the Caddyfile is to make the first.`,
		Example: `  caddy llm-gateway tokens create --name 'Ada, laptop' --expires-at 2027-06-30
  caddy llm-gateway tokens list`,
	}, func(s *settings) []*cobra.Command {
		return []*cobra.Command{listTokensCommand(s), createTokenCommand(s), revokeTokenCommand(s)}
	})
}

func listTokensCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Lists the operator tokens",
		Long:    "Lists the operator tokens, newest first, revoked ones included.",
		Example: "  caddy llm-gateway tokens list",
		Args:    exactly(),
	}
	addList(cmd, s, pathOf("operator-tokens"), nil, view[token]{
		columns: []column{left("ID"), left("NAME"), left("STATUS"), left("PREFIX"), left("EXPIRES"), left("LAST USED")},
		row: func(t token) []string {
			return []string{t.ID, printable(t.Name), t.Status, t.Prefix, moment(t.ExpiresAt), moment(t.LastUsedAt)}
		},
	})
	return cmd
}

func createTokenCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create --name NAME [flags]",
		Short: "Creates an operator token and prints it, once",
		Long: `Creates an operator token and prints it. It is the only time that it is shown:
the gateway keeps a hash of it.`,
		Example: "  caddy llm-gateway tokens create --name 'nightly export' --expires-at 2027-06-30",
		Args:    exactly(),
	}
	in := newInput(cmd)
	in.text("name", "whose token it is, or what for")
	in.time("expires-at", "from when on the token is refused")
	addCreate(in, s, pathOf("operator-tokens"), showCreatedToken)
	return cmd
}

func revokeTokenCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke <id>",
		Short:   "Revokes an operator token, for good",
		Long:    "Revokes an operator token, which cannot be undone.",
		Example: "  caddy llm-gateway tokens revoke token_01jd...",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			return answer(ctx, s, call{method: http.MethodPost, path: pathOf("operator-tokens", args[0], "revoke")}, showToken)
		}),
	}
}

// createdToken holds the token itself, which is shown once.
type createdToken struct {
	Token         string `json:"token"`
	OperatorToken token  `json:"operator_token"`
}

func showCreatedToken(w io.Writer, c createdToken) error {
	fmt.Fprintf(w, "The token, which is not shown again:\n\n  %s\n\n", c.Token)
	return showToken(w, c.OperatorToken)
}

func showToken(w io.Writer, t token) error {
	return fields(w,
		field{"ID", t.ID},
		field{"Name", printable(t.Name)},
		field{"Status", t.Status},
		field{"Prefix", t.Prefix},
		field{"Created", moment(t.CreatedAt)},
		field{"Created by", text(t.CreatedBy)},
		field{"Expires", moment(t.ExpiresAt)},
		field{"Last used", moment(t.LastUsedAt)},
	)
}
