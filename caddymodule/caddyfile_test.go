package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

var update = flag.Bool("update", false, "write the goldens anew")

const goldenSeparator = "----------\n"

func adapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

func TestCaddyfileAdaptsToJSON(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, found := strings.Cut(string(b), goldenSeparator)
			if !found {
				t.Fatal("no separator")
			}
			config, err := adapt(input)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, config, "", "\t"); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			if *update {
				if err := os.WriteFile(file, []byte(input+goldenSeparator+got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("adapted config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWrongCaddyfileWordsAreErrorsWithTheirLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, options string
		line          string
		want          string
	}{
		{"unknown option", "speling yes", "Caddyfile:3", `unrecognized llm_gateway option "speling": there are admin_token, billing, `},
		{"option twice", "discount 1%\ndiscount 2%", "Caddyfile:4", `"discount" is given twice`},
		{"unknown storage", "storage mysql x", "Caddyfile:3", `unknown storage "mysql"`},
		{"storage without a place", "storage sqlite", "Caddyfile:3", "want: storage sqlite <path>"},
		{"unknown policy", "unpriced maybe", "Caddyfile:3", `unknown policy "maybe"`},
		{"discount without percent", "discount 0.2", "Caddyfile:3", "want a percentage such as 20%"},
		{"discount above all", "discount 101%", "Caddyfile:3", "outside 0% to 100%"},
		{"unknown billing mode", "billing paypal", "Caddyfile:3", `unknown billing mode "paypal"`},
		{"package without credits", "billing development {\npackage a 1\n}", "Caddyfile:4", "want: package <name>"},
		{"package with a bad amount", "billing development {\npackage a 1 ten\n}", "Caddyfile:4", "invalid dollar amount"},
		{"package twice", "billing development {\npackage a 1 1\npackage a 2 2\n}", "Caddyfile:5", "defined twice"},
		{"unknown billing option", "billing stripe {\nsecret x\n}", "Caddyfile:4", `unrecognized option "secret" of billing stripe`},
		{"billing option of the other mode", "billing development {\nsecret_key x\n}", "Caddyfile:4", `unrecognized option "secret_key" of billing development`},
		{"billing option twice", "billing stripe {\nsecret_key x\nsecret_key y\n}", "Caddyfile:5", "given twice"},
		{"stripe without a webhook secret", "billing stripe {\nsecret_key x\n}", "Caddyfile:5", "needs a secret_key and a webhook_secret"},
		{"package below a cent", "billing stripe {\npackage a 1.005 1\n}", "Caddyfile:4", "not in whole cents"},
		{"package below what Stripe takes", "billing stripe {\npackage a 0.49 1\n}", "Caddyfile:4", "not between 0.50"},
		{"retention below what limits need", "retention 34d", "Caddyfile:3", `retention "34d": want days such as 400d, from 35d`},
		{"retention that is no time", "retention 13mo", "Caddyfile:3", `retention "13mo": want days`},
		{"retention without a time", "retention", "Caddyfile:3", "argument"},
		{"provider twice", "provider openai\nprovider openai", "Caddyfile:4", "configured twice"},
		{"provider without protocol", "provider mistral {\nbase_url http://x\n}", "Caddyfile:5", "needs a protocol"},
		{"provider without base_url", "provider mistral {\nprotocol openai\n}", "Caddyfile:5", "needs a base_url"},
		{"provider with a reserved name", "provider v1 {\n}", "Caddyfile:3", "cannot name a provider"},
		{"provider with a bad name", "provider A/b {\n}", "Caddyfile:3", "lower-case letters"},
		{"unknown provider option", "provider openai {\napi_kye x\n}", "Caddyfile:4", `unrecognized provider option "api_kye": there are protocol, base_url, api_key, `},
		{"unknown protocol", "provider x {\nprotocol soap\n}", "Caddyfile:4", `unknown protocol "soap"`},
		{"unknown transport", "provider openai {\ntransport pigeon\n}", "Caddyfile:4", "pigeon"},
		{"unknown transport option", "provider openai {\ntransport http {\nwings 2\n}\n}", "Caddyfile:5", "wings"},
		{"credential without a key", "provider openai {\ncredential team\n}", "Caddyfile:4", "want: credential <label> <api key>"},
		{"credential with a bad label", "provider openai {\ncredential Team x\n}", "Caddyfile:4", "lower-case letters"},
		{"credential without weight", "provider openai {\ncredential team x 0\n}", "Caddyfile:4", "a number from 1 to 1000"},
		{"credential with more", "provider openai {\ncredential team x 1 2\n}", "Caddyfile:4", "argument"},
		{"credential twice", "provider openai {\ncredential team x\ncredential team y\n}", "Caddyfile:5", `credential "team" is configured twice`},
		{"credential beside the api_key", "provider openai {\napi_key x\ncredential default y\n}", "Caddyfile:5", `"default" is configured twice`},
		{"api_key beside the credential", "provider openai {\ncredential default y\napi_key x\n}", "Caddyfile:5", `"default" is configured twice`},
		{"route without a target", "route fast {\n}", "Caddyfile:4", `route "fast" has no target`},
		{"route with a bad name", "route Fast {\nopenai/x\n}", "Caddyfile:3", "lower-case letters"},
		{"route twice", "provider openai\nroute a {\nopenai/x\n}\nroute a {\nopenai/x\n}", "Caddyfile:7", `route "a" is configured twice`},
		{"route to nobody", "route a {\nopenai/x\nmistral/y\n}\nprovider openai", "Caddyfile:5", `there is no provider "mistral"`},
		{"route to no model", "provider openai\nroute a {\nopenai\n}", "Caddyfile:5", "want <provider>/<model>"},
		{"two targets on one line", "provider openai\nroute a {\nopenai/x openai/y\n}", "Caddyfile:5", "argument"},
		{"route to another protocol", "provider anthropic\nroute a {\nanthropic/x\n}", "Caddyfile:5", "of the OpenAI protocol"},
		{"too many retries", "retries 11", "Caddyfile:3", "a number from 0 to 10"},
		{"bad retries of a provider", "provider openai {\nretries often\n}", "Caddyfile:4", "a number from 0 to 10"},
		{"retries of a provider twice", "provider openai {\nretries 0\nretries 1\n}", "Caddyfile:5", "retries is given twice"},
		{"timeout of nothing", "idle_timeout 0s", "Caddyfile:3", "from 1ms to 24h"},
		{"timeout of a provider twice", "provider openai {\ntotal_timeout 1s\ntotal_timeout 2s\n}", "Caddyfile:5", "total_timeout is given twice"},
		{"connect_timeout beside a transport", "provider openai {\nconnect_timeout 1s\ntransport http\n}", "Caddyfile:6", "give your transport a dial_timeout"},
		{"unknown rate", "price openai m {\ninptu 1\n}", "Caddyfile:4", `unrecognized rate "inptu": there are cache_read, `},
		{"negative rate", "price openai m {\ninput -1\n}", "Caddyfile:4", "at least 0"},
		{"price without output", "price openai m {\ninput 1\n}", "Caddyfile:5", "must be stated"},
		{"unknown error format", "error_format xml", "Caddyfile:3", `unknown error format "xml"`},
		{"unknown week start", "week_start friday", "Caddyfile:3", `unknown week start "friday"`},
		{"bad size", "max_body much", "Caddyfile:3", "want a size"},
		{"low balance of nothing", "low_balance 0.00", "Caddyfile:3", "want an amount of USD above 0"},
		{"bad low balance", "low_balance five", "Caddyfile:3", "want an amount of USD above 0"},
		{"bad duration", "drain soon", "Caddyfile:3", "want a duration"},
		{"bad number", "default_max_tokens -1", "Caddyfile:3", "not a number above 0"},
		{"no number", "max_output_tokens 0", "Caddyfile:3", "not a number above 0"},
		{"unknown sync", "journal x {\nsync sometimes\n}", "Caddyfile:4", `unknown journal sync "sometimes"`},
		{"oidc without issuer", "oidc {\nclient_id x\n}", "Caddyfile:5", "oidc needs an issuer"},
		{"oidc without client", "oidc {\nissuer https://x\n}", "Caddyfile:5", "oidc needs a client_id, or an audience"},
		{"unknown oidc option", "oidc {\nisuer x\n}", "Caddyfile:4", `unrecognized oidc option "isuer": there are allow_unverified_email, audience, `},
		{"oidc option twice", "oidc {\nissuer x\nissuer y\n}", "Caddyfile:5", `"issuer" is given twice`},
		{"oidc with an argument", "oidc x", "Caddyfile:3", "argument"},
		{"audience of nobody", "oidc {\naudience\n}", "Caddyfile:4", "argument"},
		{"flag with a value", "oidc {\nallow_unverified_email yes\n}", "Caddyfile:4", "argument"},
		{"clocks far apart", "oidc {\nclock_skew 1h\n}", "Caddyfile:4", "from 1s to 10m"},
		{"too many arguments", "admin_token a b", "Caddyfile:3", "argument"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := adapt("{\nllm_gateway {\n" + test.options + "\n}\n}\n:8080 {\nllm_gateway\n}\n")
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.line) {
				t.Errorf("error %q\nwant %q at %s", err, test.want, test.line)
			}
		})
	}
}

func FuzzCaddyfile(f *testing.F) {
	f.Add("llm_gateway {\nstorage sqlite x\nbilling development {\npackage a 1 1\n}\n}")
	f.Add("llm_gateway {\nprovider x {\nprotocol openai\nbase_url http://x\ntransport http\n}\nprice x y {\ninput 1\noutput 1\n}\n}")
	f.Add("llm_gateway {\nprovider openai\nroute fast {\nopenai/a\nopenai/b\n}\n}")
	f.Add("llm_gateway {\nretries 1\nidle_timeout 2s\nprovider openai {\napi_key x\ncredential b y 3\nretries 0\nconnect_timeout 1s\n}\n}")
	f.Add("llm_gateway {\nbilling stripe {\nsecret_key x\nwebhook_secret y\nsuccess_url http://x\npackage a 1 1\n}\n}")
	f.Fuzz(func(t *testing.T, input string) {
		var app, again App
		if err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)); err != nil {
			return
		}
		b, err := json.Marshal(&app)
		if err != nil {
			t.Fatal(err)
		}
		if err := caddy.StrictUnmarshalJSON(b, &again); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		c, err := json.Marshal(&again)
		if err != nil || !bytes.Equal(b, c) {
			t.Errorf("config %s became %s (%v)", b, c, err)
		}
	})
}
