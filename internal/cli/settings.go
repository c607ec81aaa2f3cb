package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// The environment variables that stand for flags.
const (
	urlVariable          = "GATEWAY_URL"
	tokenVariable        = "GATEWAY_ADMIN_TOKEN"
	organizationVariable = "GATEWAY_ORG"
)

const defaultURL = "http://localhost:8080"

// settings are the flags of all commands. Defaults from the environment are
// not the flags' own, which help would show.
type settings struct {
	url, token, tokenFile string
	organization          string
	json                  bool
}

// noun makes a command of a noun, with the flags of all commands.
func noun(cmd *cobra.Command, commands func(*settings) []*cobra.Command) *cobra.Command {
	s := new(settings)
	s.addTo(cmd)
	return Group(cmd, commands(s)...)
}

func (s *settings) addTo(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&s.url, "url", "", "address of the gateway; $"+urlVariable+", or else "+defaultURL)
	flags.StringVar(&s.token, "token", "", "operator token or bearer token; better $"+tokenVariable+" or --token-file, since other users can see a process's flags")
	flags.StringVar(&s.tokenFile, "token-file", "", "file that holds the token")
	flags.StringVar(&s.organization, "org", "", "id of the organization to act on; $"+organizationVariable+", or else the token's own")
	flags.BoolVar(&s.json, "json", false, "print the API's JSON")
}

// session is one run of a command: the gateway that it asks, and where it
// writes to.
type session struct {
	*client
	out, notes io.Writer
	// terminal says that out is one.
	terminal, json bool
}

// run makes a cobra RunE of f. A signal to end cancels its context.
func (s *settings) run(f func(ctx context.Context, s *session, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		out := cmd.OutOrStdout()
		return f(ctx, &session{client: c, out: out, notes: cmd.ErrOrStderr(), terminal: isTerminal(out), json: s.json}, args)
	}
}

func (s *settings) client() (*client, error) {
	base, err := baseURL(cmp.Or(s.url, os.Getenv(urlVariable), defaultURL))
	if err != nil {
		return nil, err
	}
	token, err := s.readToken()
	if err != nil {
		return nil, err
	}
	organization := cmp.Or(s.organization, os.Getenv(organizationVariable))
	if !isHeaderText(organization) {
		return nil, misusef("--org %q: an organization's id has no such characters", organization)
	}
	return newClient(base, token, organization), nil
}

// baseURL returns the address without a slash at its end.
func baseURL(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return "", misusef("--url: expected an address such as %s or https://gateway.example.com", defaultURL)
	case u.User != nil:
		return "", misusef("--url: a name or password in the address is not used: give the token with $%s", tokenVariable)
	case u.RawQuery != "" || u.Fragment != "":
		return "", misusef("--url: expected the gateway's address alone, without ? and #")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// readToken never has the token in an error.
func (s *settings) readToken() (string, error) {
	token := s.token
	switch {
	case s.token != "" && s.tokenFile != "":
		return "", misusef("use one of --token and --token-file")
	case s.tokenFile != "":
		text, err := os.ReadFile(s.tokenFile)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		if token = strings.TrimSpace(string(text)); token == "" {
			return "", fmt.Errorf("read the token: %s is empty", s.tokenFile)
		}
	case token == "":
		token = strings.TrimSpace(os.Getenv(tokenVariable))
	}
	if token == "" {
		return "", misusef("no token: set $%s to the gateway's admin_token or to a token of your own, or name its file with --token-file", tokenVariable)
	}
	if !isHeaderText(token) {
		return "", misusef("the token has spaces, line breaks or other characters that no token has")
	}
	return token, nil
}

// isHeaderText tells whether the text can be in an HTTP header as it is.
func isHeaderText(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' })
}
