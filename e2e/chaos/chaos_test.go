package chaos

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// options are the flags, filled in.
type options struct {
	full     bool
	seed     uint64
	nodes    int
	clients  int
	kills    int
	reloads  int
	duration time.Duration
	only     string
	dir      string // of this run's files
}

var flags options

func init() {
	flag.BoolVar(&flags.full, "chaos.full", false, "run the full form: all scenarios, with more and longer faults")
	flag.Uint64Var(&flags.seed, "chaos.seed", 0, "seed of the faults and requests; 0 is a new one")
	flag.IntVar(&flags.nodes, "chaos.nodes", 3, "gateway processes")
	flag.IntVar(&flags.clients, "chaos.clients", 32, "concurrent clients")
	flag.IntVar(&flags.kills, "chaos.kills", 0, "kills in the scenario kills; default 10, in the full form 50")
	flag.IntVar(&flags.reloads, "chaos.reloads", 0, "reloads in the scenario reloads; default 6, in the full form 20")
	flag.DurationVar(&flags.duration, "chaos.duration", 0, "length of what is neither counted nor fixed; default 10s, in the full form 60s")
	flag.StringVar(&flags.only, "chaos.scenarios", "", "comma-separated scenarios to run, whatever the form")
	flag.StringVar(&flags.dir, "chaos.dir", "", "folder for the logs of failed runs; default the system's")
}

// report is the table of the run. It is the last thing that is printed.
var report string

// interrupt is done when the run is interrupted; everything is cleaned up then.
var interrupt, stopInterrupt = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	stopInterrupt()
	if report != "" {
		fmt.Printf("\n%s\n", report)
	}
	os.Exit(code)
}

// fillIn sets what depends on the form.
func (o options) fillIn() options {
	short := func(given *int, short, full int) {
		if *given == 0 {
			*given = short
			if o.full {
				*given = full
			}
		}
	}
	short(&o.kills, 10, 50)
	short(&o.reloads, 6, 20)
	if o.duration == 0 {
		o.duration = 10 * time.Second
		if o.full {
			o.duration = time.Minute
		}
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	return o
}

// chosen are the scenarios to run.
func (o options) chosen() ([]scenario, error) {
	var names []string
	if o.only != "" {
		names = strings.Split(o.only, ",")
	}
	var chosen []scenario
	for _, s := range scenarios {
		i := slices.Index(names, s.name)
		if i >= 0 {
			names = slices.Delete(names, i, i+1)
		}
		if i >= 0 || o.only == "" && (s.short || o.full) {
			chosen = append(chosen, s)
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("no such scenarios: %q", names)
	}
	return chosen, nil
}

func TestChaos(t *testing.T) {
	o := flags.fillIn()
	chosen, err := o.chosen()
	if err != nil {
		t.Fatal(err)
	}
	//nolint:usetesting // a folder of the test's would be gone when the test has failed
	if o.dir, err = os.MkdirTemp(o.dir, fmt.Sprintf("chaos-%d-", o.seed)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "seed %d, %d nodes, %d clients, files in %s\n", o.seed, o.nodes, o.clients, o.dir)
	t.Cleanup(func() {
		if t.Failed() {
			fmt.Fprintf(os.Stderr, "logs and journals are kept in %s\n", o.dir)
		} else if err := os.RemoveAll(o.dir); err != nil {
			t.Errorf("remove files: %v", err)
		}
	})
	postgres, err := pgtest.StartCluster()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(postgres.Close)
	var all []*figures
	for _, s := range chosen {
		t.Run(s.name, func(t *testing.T) {
			f := runScenario(t, o, s, postgres)
			all = append(all, f)
		})
	}
	report = table(all, o.seed)
	if err := os.WriteFile(filepath.Join(o.dir, "report.md"), []byte(report), 0o600); err != nil {
		t.Error(err)
	}
}

func runScenario(t *testing.T, o options, s scenario, postgres *pgtest.Cluster) *figures {
	t.Helper()
	if err := interrupt.Err(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(interrupt)
	defer cancel()
	c, err := newCluster(ctx, o, s.name, postgres)
	if err != nil {
		t.Fatal(err)
	}
	failed := s.run(ctx, c)
	if err := c.close(); err != nil {
		t.Error(err)
	}
	if failed != nil {
		c.figures.violate("%v", failed)
	}
	c.progress("%d requests complete, %d violations", c.figures.complete, len(c.figures.violations))
	const shown = 25
	for i, v := range c.figures.violations {
		if i == shown {
			t.Errorf("and %d more violations", len(c.figures.violations)-shown)
			break
		}
		t.Error(v)
	}
	return c.figures
}
