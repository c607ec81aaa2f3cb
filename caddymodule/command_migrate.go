package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/internal/cli"
)

// exitOutdated is a code of `migrate`, beside those of all commands.
const exitOutdated = 3

// errOutdated: the command did its work, and found that there is some to do.
var errOutdated = errors.New("the database's schema is out of date")

// migration is the command with its flags.
type migration struct {
	bookFlags
	check, json bool
}

func migrateCommand() *cobra.Command {
	m := new(migration)
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Brings a database's schema up to date",
		Long: `Brings the schema of a store up to what this binary needs, without starting the
gateway, and prints the versions. A gateway does the same when it starts; this
is for doing it before, by who may change tables, or at a quiet hour. What is up
to date stays as it is.

The store is that of a Caddyfile, or the one that is named. Of a newer schema
than this binary's nothing is changed. With --check nothing is changed at all.

The exit code is 0 if the schema is up to date, 1 if something failed, 2 if the
command was not understood, and with --check 3 if the schema is out of date.`,
		Example: `  caddy llm-gateway migrate --config /etc/caddy/Caddyfile
  caddy llm-gateway migrate --postgres 'postgres://owner@db/gateway' --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			return m.run(ctx, cmd.OutOrStdout())
		},
	}
	m.addTo(cmd.Flags())
	cmd.Flags().BoolVar(&m.json, "json", false, "print the versions as JSON")
	cmd.Flags().BoolVar(&m.check, "check", false, "only tell whether the schema is up to date")
	return cmd
}

func (m *migration) run(ctx context.Context, out io.Writer) error {
	if named(m.config, m.sqlite, m.postgres) > 1 {
		return cli.Misuse(errors.New("name one of --config, --sqlite and --postgres"))
	}
	storage, err := m.storage()
	if err != nil {
		return err
	}
	schema, err := schemaOf(ctx, storage)
	switch {
	case err != nil:
		return err
	case schema.Version > schema.Known:
		return fmt.Errorf("the database's schema is version %d, this binary knows %d: use a newer binary", schema.Version, schema.Known)
	case schema.Version == schema.Known:
		return m.print(out, schema, fmt.Sprintf("The schema is up to date, at version %d.", schema.Version))
	case m.check:
		return fmt.Errorf("%w: it is version %d, and this binary's is %d", errOutdated, schema.Version, schema.Known)
	}
	if err := migrate(ctx, storage); err != nil {
		return err
	}
	return m.print(out, schema, fmt.Sprintf("The schema was version %d, and is now version %d.", schema.Version, schema.Known))
}

// print prints the text, or with --json the version before and the one of now.
func (m *migration) print(out io.Writer, s billing.Schema, text string) error {
	if m.json {
		text = fmt.Sprintf(`{"from":%d,"to":%d}`, s.Version, s.Known)
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

func schemaOf(ctx context.Context, s Storage) (billing.Schema, error) {
	if s.Driver == driverPostgres {
		return postgres.Schema(ctx, s.DSN)
	}
	return sqlite.Schema(ctx, s.DSN)
}

// migrate opens the store, which brings its schema up to date.
func migrate(ctx context.Context, s Storage) error {
	var store io.Closer
	var err error
	if s.Driver == driverPostgres {
		store, err = postgres.Open(ctx, s.DSN)
	} else {
		store, err = sqlite.Open(ctx, s.DSN)
	}
	if err != nil {
		return err
	}
	return store.Close()
}
