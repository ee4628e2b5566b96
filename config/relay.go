package config

import (
	"fmt"
	"path/filepath"
	"strings"
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

// RelayIngress says where jobs come in.
type RelayIngress struct {
	// Connect is the HTTP CONNECT port, on loopback; empty: none.
	Connect Listen
	// Socks5 is the SOCKS 5 port, on loopback; empty: none.
	Socks5 Listen
	// Ports stand for one store and one job each, on loopback.
	Ports []RelayPort
}

// RelayPort is a TCP port through which a job dials one store without a token.
type RelayPort struct {
	Listen         Listen
	Gateway, Store string
	Job            string
}

// RelayState says where the relay keeps what it must not lose.
type RelayState struct {
	Dir string
	// KeyFile holds the key that secrets are encrypted with; never empty.
	KeyFile string
}

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

// tokensCross is why an ingress that asks for tokens must be on loopback.
const tokensCross = "job tokens would cross the network unencrypted"

// rawRelay mirrors relay.yaml.
type rawRelay struct {
	Hostname string `mapstructure:"hostname" usage:"name or address at which connectors and clients reach the relay"`
	Listen   struct {
		TLS  string  `mapstructure:"tls" usage:"TCP address for sessions and lanes"`
		QUIC *string `mapstructure:"quic" usage:"UDP address for sessions; empty: no QUIC"`
		HTTP *string `mapstructure:"http" usage:"TCP address for sessions in plain HTTP; empty: none"`
	} `mapstructure:"listen"`
	Ingress struct {
		Connect string    `mapstructure:"connect" usage:"loopback address of the HTTP CONNECT ingress"`
		Socks5  string    `mapstructure:"socks5" usage:"loopback address of the SOCKS 5 ingress"`
		Ports   []rawPort `mapstructure:"ports"`
	} `mapstructure:"ingress"`
	State struct {
		Dir     string `mapstructure:"dir" usage:"folder for what the relay must not lose"`
		KeyFile string `mapstructure:"key_file" usage:"file with the key that secrets are encrypted with"`
	} `mapstructure:"state"`
	TLS struct {
		Cert string `mapstructure:"cert" usage:"file with the public certificate chain (PEM)"`
		Key  string `mapstructure:"key" usage:"file with the public certificate's key (PEM)"`
	} `mapstructure:"tls"`
	Metrics     string `mapstructure:"metrics" usage:"address on which Prometheus metrics are served"`
	Log         rawLog `mapstructure:"log"`
	ResumeGrace string `mapstructure:"resume_grace" usage:"how long streams wait for a lost node to come back (120s; 0: not at all)"`
}

type rawPort struct {
	Listen string `mapstructure:"listen"`
	Target string `mapstructure:"target"`
	Job    string `mapstructure:"job"`
}

// loopbackListen checks an address of an ingress, which must be on loopback: why says
// what would go wrong elsewhere.
func (c *checker) loopbackListen(key, s, why, example string) Listen {
	l := c.listen(key, s)
	if l != "" && !l.loopback() {
		c.add(key, "is not on loopback, so "+why, example)
	}
	return l
}

func (raw rawPort) check(c *checker, key string) RelayPort {
	const example = "{listen: \"127.0.0.1:11433\", target: corp/erp-sql, job: nightly-copy}"
	p := RelayPort{Listen: c.loopbackListen(key+".listen", raw.Listen, "whoever reaches it would reach the store", example)}
	if raw.Listen == "" {
		c.add(key+".listen", "is missing", example)
	}
	gateway, store, ok := strings.Cut(raw.Target, "/")
	if raw.Target == "" {
		c.add(key+".target", "is missing", example)
	} else if !ok {
		c.add(key+".target", quote(raw.Target)+" is not GATEWAY/STORE", "target: corp/erp-sql")
	} else {
		p.Gateway = c.name(key+".target", gateway, "target: corp/erp-sql")
		p.Store = c.name(key+".target", store, "target: corp/erp-sql")
	}
	if raw.Job == "" {
		c.add(key+".job", "is missing", example)
	} else {
		p.Job = c.name(key+".job", raw.Job, "job: nightly-copy")
	}
	return p
}

func (raw *rawRelay) check(m *merged) (*Relay, error) {
	c := &checker{origin: m.where}
	r := &Relay{
		Hostname: c.host("hostname", raw.Hostname, "relay.example.com"),
		Listen:   RelayListen{TLS: c.listen("listen.tls", or(raw.Listen.TLS, ":443"))},
		Ingress: RelayIngress{
			Connect: c.loopbackListen("ingress.connect", raw.Ingress.Connect, tokensCross, "127.0.0.1:3128"),
			Socks5:  c.loopbackListen("ingress.socks5", raw.Ingress.Socks5, tokensCross, "127.0.0.1:1080"),
		},
		State:       RelayState{Dir: or(raw.State.Dir, defaultDir("ebbgate")), KeyFile: raw.State.KeyFile},
		TLS:         RelayTLS{Cert: raw.TLS.Cert, Key: raw.TLS.Key},
		Metrics:     c.listen("metrics", raw.Metrics),
		Log:         raw.Log.check(c),
		ResumeGrace: c.duration("resume_grace", raw.ResumeGrace, DefaultResumeGrace, maxResumeGrace),
	}
	r.Listen.QUIC = r.Listen.TLS
	if raw.Listen.QUIC != nil {
		r.Listen.QUIC = c.listen("listen.quic", *raw.Listen.QUIC)
	}
	r.Listen.HTTP = ":80"
	if raw.Listen.HTTP != nil {
		r.Listen.HTTP = c.listen("listen.http", *raw.Listen.HTTP)
	}
	if r.State.KeyFile == "" {
		r.State.KeyFile = filepath.Join(r.State.Dir, "state.key")
	}
	for i, p := range raw.Ingress.Ports {
		r.Ingress.Ports = append(r.Ingress.Ports, p.check(c, fmt.Sprintf("ingress.ports[%d]", i)))
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
