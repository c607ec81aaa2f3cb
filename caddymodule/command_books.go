package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// bookFlags name the store that a command works on.
type bookFlags struct {
	config, adapter  string
	sqlite, postgres string
}

func (b *bookFlags) addTo(flags *pflag.FlagSet) {
	flags.StringVarP(&b.config, "config", "c", "", "configuration whose store is meant; ./Caddyfile if no other flag names one")
	flags.StringVarP(&b.adapter, "adapter", "a", "", "config adapter, if the configuration is not a Caddyfile")
	flags.StringVar(&b.sqlite, "sqlite", "", "path of a SQLite store")
	flags.StringVar(&b.postgres, "postgres", "", "connection string of a PostgreSQL store")
}

var errNoConfig = errors.New("no Caddyfile here: name one with --config, or the store with --sqlite or --postgres")

// named is how many of the texts are not empty.
func named(flags ...string) int {
	n := 0
	for _, flag := range flags {
		if flag != "" {
			n++
		}
	}
	return n
}

// storage returns the store that the flags name.
func (b *bookFlags) storage() (Storage, error) {
	switch {
	case b.sqlite != "":
		return Storage{Driver: driverSQLite, DSN: b.sqlite}, nil
	case b.postgres != "":
		return Storage{Driver: driverPostgres, DSN: b.postgres}, nil
	}
	return b.configured()
}

// configured returns the store of the configuration, which is read and not run.
func (b *bookFlags) configured() (Storage, error) {
	text, _, _, err := caddycmd.LoadConfig(b.config, b.adapter)
	if err != nil {
		return Storage{}, err
	}
	if len(text) == 0 {
		return Storage{}, errNoConfig
	}
	var config struct {
		Apps struct {
			Gateway *struct {
				Storage *Storage `json:"storage"`
			} `json:"llm_gateway"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return Storage{}, fmt.Errorf("read configuration: %w", err)
	}
	if config.Apps.Gateway == nil {
		return Storage{}, errors.New("the configuration has no llm_gateway: name one with --config, or the store itself")
	}
	app := App{Storage: config.Apps.Gateway.Storage}
	app.setDefaults()
	storage := Storage{Driver: app.Storage.Driver, DSN: caddy.NewReplacer().ReplaceAll(app.Storage.DSN, "")}
	if storage.DSN == "" {
		return Storage{}, fmt.Errorf("storage %s: the location is empty; is its environment variable set?", storage.Driver)
	}
	return storage, nil
}
