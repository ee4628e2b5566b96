package config

import (
	"path/filepath"
	"time"
)

// Relay is relay.yaml, checked.
type Relay struct {
	// Hostname is how connectors and clients reach the relay: a DNS name or an
	// IP address.
	Hostname string
	Listen   RelayListen
	Ingress  RelayIngress
	State    RelayState
	Activity RelayActivity
	TLS      RelayTLS
	// ResumeGrace is how long the streams of the relay's own ingresses outlive
	// the last lane to their node; 0: not at all.
	ResumeGrace time.Duration
	// Metrics is where Prometheus metrics are served; empty: nowhere.
	Metrics Listen
	Log     Log
}

// RelayListen says where connectors and clients come in.
type RelayListen struct {
	// TLS is the TCP port that sessions and lanes arrive on.
	TLS Listen
	// QUIC is the UDP port; empty: no QUIC. Unless told otherwise, it is the
	// same address as TLS.
	QUIC Listen
	// HTTP is the TCP port of WebSockets without TLS of their own; empty: none.
	HTTP Listen
}

// RelayState says where the relay keeps what it must not lose.
type RelayState struct {
	Dir string
	// KeyFile holds the key that secrets are encrypted with; never empty.
	KeyFile string
	// Postgres is the database that several relays share; where it is not set,
	// everything is in Dir.
	Postgres Postgres
}

// RelayActivity says what is kept of what streams did.
type RelayActivity struct {
	// Keep is how long.
	Keep time.Duration
}

// DefaultKeep is how long the activity record keeps a run.
const DefaultKeep = 90 * 24 * time.Hour

// The bounds of it.
const (
	leastKeep = time.Hour
	mostKeep  = 10 * 365 * 24 * time.Hour
)

// RelayTLS names the public certificate; both empty: the relay's own CA makes
// one.
type RelayTLS struct{ Cert, Key string }

// LoadRelay reads and checks a relay's configuration. Its error is an [*Error].
func LoadRelay(opt Options) (*Relay, error) {
	var raw rawRelay
	m, err := load(opt, relayPrefix, &raw)
	if err != nil {
		return nil, err
	}
	return raw.check(m)
}

const relayPrefix = "EBBGATE_RELAYD_"

// rawRelay mirrors relay.yaml.
type rawRelay struct {
	Hostname string `mapstructure:"hostname" usage:"name or address at which connectors and clients reach the relay"`
	Listen   struct {
		TLS  string  `mapstructure:"tls" usage:"TCP address for sessions and lanes"`
		QUIC *string `mapstructure:"quic" usage:"UDP address for sessions; empty: no QUIC"`
		HTTP *string `mapstructure:"http" usage:"TCP address for sessions in plain HTTP; empty: none"`
	} `mapstructure:"listen"`
	Ingress rawIngress `mapstructure:"ingress"`
	State   struct {
		Dir      string `mapstructure:"dir" usage:"folder for what the relay must not lose"`
		KeyFile  string `mapstructure:"key_file" usage:"file with the key that secrets are encrypted with"`
		Postgres string `mapstructure:"postgres"` // no flag: it may hold a password
		Password string `mapstructure:"postgres_password_file" usage:"file with the password for state.postgres"`
	} `mapstructure:"state"`
	Activity struct {
		Keep string `mapstructure:"keep" usage:"how long the activity record keeps runs (2160h)"`
	} `mapstructure:"activity"`
	TLS struct {
		Cert string `mapstructure:"cert" usage:"file with the public certificate chain (PEM)"`
		Key  string `mapstructure:"key" usage:"file with the public certificate's key (PEM)"`
	} `mapstructure:"tls"`
	Metrics     string `mapstructure:"metrics" usage:"address on which Prometheus metrics are served"`
	Log         rawLog `mapstructure:"log"`
	ResumeGrace string `mapstructure:"resume_grace" usage:"how long streams wait for a lost node to come back (120s; 0: not at all)"`
}

func (raw *rawRelay) check(m *merged) (*Relay, error) {
	c := &checker{origin: m.where}
	r := &Relay{
		Hostname:    c.host("hostname", raw.Hostname, "relay.example.com"),
		Listen:      RelayListen{TLS: c.listen("listen.tls", or(raw.Listen.TLS, ":443"))},
		Ingress:     raw.Ingress.check(c),
		State:       RelayState{Dir: or(raw.State.Dir, defaultDir("ebbgate")), KeyFile: raw.State.KeyFile},
		TLS:         RelayTLS{Cert: raw.TLS.Cert, Key: raw.TLS.Key},
		Activity:    RelayActivity{Keep: c.duration("activity.keep", raw.Activity.Keep, DefaultKeep, mostKeep)},
		Metrics:     c.listen("metrics", raw.Metrics),
		Log:         raw.Log.check(c),
		ResumeGrace: c.duration("resume_grace", raw.ResumeGrace, DefaultResumeGrace, maxResumeGrace),
	}
	if r.Activity.Keep < leastKeep {
		c.add("activity.keep", "is less than an hour", "activity: {keep: 2160h}")
	}
	r.Listen.QUIC = r.Listen.TLS
	if raw.Listen.QUIC != nil {
		r.Listen.QUIC = c.listen("listen.quic", *raw.Listen.QUIC)
	}
	r.Listen.HTTP = ":80"
	if raw.Listen.HTTP != nil {
		r.Listen.HTTP = c.listen("listen.http", *raw.Listen.HTTP)
	}
	r.State.Postgres = c.postgres("state.postgres", raw.State.Postgres, raw.State.Password)
	if r.State.KeyFile == "" {
		r.State.KeyFile = filepath.Join(r.State.Dir, "state.key")
	}
	switch {
	case r.TLS.Cert != "" && r.TLS.Key == "":
		c.add("tls.cert", "needs tls.key beside it", "tls: {cert: /etc/ebbgate/tls.crt, key: /etc/ebbgate/tls.key}")
	case r.TLS.Cert == "" && r.TLS.Key != "":
		c.add("tls.key", "needs tls.cert beside it", "tls: {cert: /etc/ebbgate/tls.crt, key: /etc/ebbgate/tls.key}")
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return r, nil
}
