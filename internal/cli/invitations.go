package cli

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// invitation is what the caller is asked to become.
type invitation struct {
	ID           string `json:"id"`
	Organization struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"organization"`
	Role      string     `json:"role"`
	InvitedBy *string    `json:"invited_by"`
	CreatedAt *time.Time `json:"created_at"`
}

func invitationsCommand() *cobra.Command {
	return noun(&cobra.Command{
		Use:   "invitations",
		Short: "Lists, accepts and declines your own invitations",
		Long: `Invitations are to the e-mail address that your identity provider has verified:
use these commands with a bearer token of it. Nobody becomes a member
before they accept. To invite somebody, see members invite.`,
		Example: `  caddy llm-gateway invitations list --token-file id_token
  caddy llm-gateway invitations accept mem_01jd... --token-file id_token`,
	}, func(s *settings) []*cobra.Command {
		return []*cobra.Command{listInvitationsCommand(s), acceptInvitationCommand(s), declineInvitationCommand(s)}
	})
}

func listInvitationsCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Lists your invitations",
		Long:    "Lists the organizations that you are invited to, and as what.",
		Example: "  caddy llm-gateway invitations list --token-file id_token",
		Args:    exactly(),
	}
	addList(cmd, s, pathOf("invitations"), nil, view[invitation]{
		columns: []column{left("ID"), left("ORGANIZATION"), left("NAME"), left("ROLE"), left("INVITED BY"), left("CREATED")},
		row: func(i invitation) []string {
			return []string{i.ID, i.Organization.ID, printable(i.Organization.Name), i.Role, text(i.InvitedBy), moment(i.CreatedAt)}
		},
	})
	return cmd
}

func acceptInvitationCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "accept <id>",
		Short:   "Joins the organization that invites you",
		Long:    "Accepts an invitation: you are a member of the organization from then on.",
		Example: "  caddy llm-gateway invitations accept mem_01jd... --token-file id_token",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			path := pathOf("invitations", args[0], "accept")
			return answer(ctx, s, call{method: http.MethodPost, path: path}, showMember)
		}),
	}
}

func declineInvitationCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "decline <id>",
		Short:   "Turns an invitation down",
		Long:    "Declines an invitation, which is gone then. You may be invited again.",
		Example: "  caddy llm-gateway invitations decline mem_01jd... --token-file id_token",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			path := pathOf("invitations", args[0], "decline")
			if _, err := s.do(ctx, call{method: http.MethodPost, path: path}); err != nil {
				return err
			}
			fmt.Fprintf(s.notes, "Declined %s\n", args[0])
			return nil
		}),
	}
}
