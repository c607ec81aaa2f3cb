package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// roles are what members may be, from who may do everything.
var roles = []string{"owner", "admin", "developer", "finance", "viewer"}

// member is a person in an organization, or one who is invited.
type member struct {
	ID        string     `json:"id"`
	Email     string     `json:"email"`
	Name      *string    `json:"name"`
	Role      string     `json:"role"`
	Status    string     `json:"status"`
	InvitedBy *string    `json:"invited_by"`
	CreatedAt *time.Time `json:"created_at"`
	JoinedAt  *time.Time `json:"joined_at"`
	version
	Warning string `json:"warning"`
}

func membersCommand() *cobra.Command {
	return noun(&cobra.Command{
		Use:   "members",
		Short: "Invites, lists, edits and removes the members of an organization",
		Long: `Members log in through an identity provider, and may do what their role allows:

  owner      everything in the organization
  admin      everything but to make, change and remove owners
  developer  proxy keys of their own
  finance    see everything about money, and buy credits
  viewer     see everything`,
		Example: `  caddy llm-gateway members invite ada@acme.example --role admin --org acme
  caddy llm-gateway members list --org acme`,
	}, func(s *settings) []*cobra.Command {
		return []*cobra.Command{
			listMembersCommand(s), inviteMemberCommand(s), showMemberCommand(s), editMemberCommand(s), removeMemberCommand(s),
		}
	})
}

func listMembersCommand(s *settings) *cobra.Command {
	f := filterFlags{}
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Lists the members, and who is invited",
		Long:    "Lists the organization's members, newest first, and those who are invited.",
		Example: "  caddy llm-gateway members list --org acme",
		Args:    exactly(),
	}
	f.addTo(cmd, filterFlag{"role", "role", "members with this role"})
	complete(cmd, "role", roles...)
	addList(cmd, s, pathOf("members"), f.query, view[member]{
		columns: []column{left("ID"), left("EMAIL"), left("NAME"), left("ROLE"), left("JOINED"), left("INVITED BY")},
		row: func(m member) []string {
			return []string{
				m.ID, printable(m.Email), text(m.Name), m.Role,
				orElse(moment(m.JoinedAt), "invited"), text(m.InvitedBy),
			}
		},
	})
	return cmd
}

func inviteMemberCommand(s *settings) *cobra.Command {
	var role, name string
	cmd := &cobra.Command{
		Use:   "invite <email> --role ROLE",
		Short: "Invites somebody by e-mail address",
		Long: `Invites the person with an e-mail address. No mail is sent: who has that
address, verified by the identity provider, accepts or declines. A first login
in a browser accepts the only invitation of somebody.`,
		Example: "  caddy llm-gateway members invite ada@acme.example --role developer",
		Args:    exactly("email"),
	}
	cmd.RunE = s.run(func(ctx context.Context, s *session, args []string) error {
		if err := need(cmd, "role"); err != nil {
			return err
		}
		body := map[string]any{"email": args[0], "role": role}
		if name != "" {
			body["name"] = name
		}
		return answer(ctx, s, call{method: http.MethodPost, path: pathOf("members"), body: body}, showMember)
	})
	cmd.Flags().StringVar(&role, "role", "", "what they may do: owner, admin, developer, finance, viewer")
	cmd.Flags().StringVar(&name, "name", "", "name, for people")
	complete(cmd, "role", roles...)
	return cmd
}

func showMemberCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "show <id>",
		Short:   "Shows one member",
		Long:    "Shows a member of the organization, or somebody who is invited.",
		Example: "  caddy llm-gateway members show mem_01jd...",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			return answer(ctx, s, get(pathOf("members", args[0]), nil), showMember)
		}),
	}
}

func editMemberCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "edit <id> [flags]",
		Short:   "Changes a member's role or name",
		Long:    "Changes the fields whose flags are given. An organization always keeps an owner.",
		Example: "  caddy llm-gateway members edit mem_01jd... --role finance",
		Args:    exactly("id"),
	}
	in := newInput(cmd)
	in.choice("role", "what they may do", roles...)
	in.clearable("name", "name, for people")
	addEdit(in, s, http.MethodPatch, func(args []string) string { return pathOf("members", args[0]) }, showMember)
	return cmd
}

func removeMemberCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "remove <id>",
		Short: "Removes a member, or withdraws an invitation",
		Long: `Removes a member from the organization. The keys they own stay, and go on
working: revoke those with keys revoke. An organization always keeps an owner.`,
		Example: "  caddy llm-gateway members remove mem_01jd...",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			if _, err := s.do(ctx, call{method: http.MethodDelete, path: pathOf("members", args[0])}); err != nil {
				return err
			}
			if s.json {
				return printJSON(s.out, []byte(`{}`))
			}
			fmt.Fprintf(s.notes, "Removed %s\n", args[0])
			return nil
		}),
	}
}

func showMember(w io.Writer, m member) error {
	return fields(w, withWarning(m.Warning,
		field{"ID", m.ID},
		field{"E-mail", printable(m.Email)},
		field{"Name", text(m.Name)},
		field{"Role", m.Role},
		field{"Invited by", text(m.InvitedBy)},
		field{"Created", moment(m.CreatedAt)},
		field{"Joined", moment(m.JoinedAt)},
		field{"Version", m.shown()},
	)...)
}
