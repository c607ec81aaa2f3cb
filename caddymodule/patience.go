package caddymodule

import (
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Patience is how often and how long a provider is tried.
type Patience struct {
	// Retries is how many times a request is tried again, at most, when the
	// provider does not answer, is overloaded or fails: from 0 to 10.
	// Default: 2.
	Retries *int `json:"retries,omitempty"`

	// ConnectTimeout is how long it may take to connect. It is for the default
	// transport; another one has options of its own. Default: 10s.
	ConnectTimeout caddy.Duration `json:"connect_timeout,omitempty"`

	// FirstByteTimeout is how long the first byte of an answer's body may take.
	// After that the request is tried again. Default: 10m.
	FirstByteTimeout caddy.Duration `json:"first_byte_timeout,omitempty"`

	// IdleTimeout is how long an answer may stop in the middle. Default: 5m.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// TotalTimeout is how long a request may take in all, retries included.
	// Default: 1h.
	TotalTimeout caddy.Duration `json:"total_timeout,omitempty"`
}

const (
	maxRetries     = 10
	leastTimeout   = time.Millisecond
	longestTimeout = 24 * time.Hour
)

func defaultPatience() Patience {
	retries := 2
	return Patience{
		Retries:          &retries,
		ConnectTimeout:   caddy.Duration(10 * time.Second),
		FirstByteTimeout: caddy.Duration(10 * time.Minute),
		IdleTimeout:      caddy.Duration(5 * time.Minute),
		TotalTimeout:     caddy.Duration(time.Hour),
	}
}

// inherit fills in what is not configured.
func (p *Patience) inherit(defaults Patience) {
	if p.Retries == nil {
		p.Retries = defaults.Retries
	}
	own, theirs := p.timeouts(), defaults.timeouts()
	for name, value := range own {
		if *value == 0 {
			*value = *theirs[name]
		}
	}
}

func (p *Patience) validate() error {
	if p.Retries != nil && (*p.Retries < 0 || *p.Retries > maxRetries) {
		return fmt.Errorf("retries must be from 0 to %d", maxRetries)
	}
	for name, value := range p.timeouts() {
		if *value != 0 && (*value < caddy.Duration(leastTimeout) || *value > caddy.Duration(longestTimeout)) {
			return fmt.Errorf("%s must be from %s to %s", name, leastTimeout, longestTimeout)
		}
	}
	return nil
}

// timeouts are the options that are durations.
func (p *Patience) timeouts() map[string]*caddy.Duration {
	return map[string]*caddy.Duration{
		"connect_timeout":    &p.ConnectTimeout,
		"first_byte_timeout": &p.FirstByteTimeout,
		"idle_timeout":       &p.IdleTimeout,
		"total_timeout":      &p.TotalTimeout,
	}
}

func (p *Patience) parseRetries(d *caddyfile.Dispenser) error {
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxRetries {
		return d.Errf("retries %q: want a number from 0 to %d", text, maxRetries)
	}
	p.Retries = &n
	return nil
}

// parseOption reads an option of this kind. It returns false for others.
func (p *Patience) parseOption(d *caddyfile.Dispenser) (ours bool, err error) {
	option := d.Val()
	if option == "retries" {
		if p.Retries != nil {
			return true, d.Err("retries is given twice")
		}
		return true, p.parseRetries(d)
	}
	value, ours := p.timeouts()[option]
	switch {
	case !ours:
		return false, nil
	case *value != 0:
		return true, d.Errf("%s is given twice", option)
	}
	return true, duration(d, value, leastTimeout, longestTimeout)
}
