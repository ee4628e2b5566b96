package connector

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/proxycfg"
	"github.com/ebbgate/ebbgate/tunnel"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// defaultPort is where relays are unless something else is said.
const (
	defaultPort     = 443
	defaultHTTPPort = 80
)

// newProxy makes the way out of this network of its configuration.
func newProxy(file *config.Connector, environment func(string) string, logger *slog.Logger) (*proxycfg.Proxy, error) {
	if environment == nil {
		environment = os.Getenv
	}
	set := proxycfg.Settings{
		Control: bundle.BeginCongestion,
		Mode:    proxycfg.Mode(file.Proxy.Mode), URL: file.Proxy.URL, Username: file.Proxy.Username, PasswordFile: file.Proxy.PasswordFile,
		Bypass: file.Proxy.Bypass, StateDir: file.StateDir, Environment: environment,
	}
	for _, a := range file.Proxy.Auth {
		set.Auth = append(set.Auth, proxycfg.Scheme(a))
	}
	return proxycfg.New(set, logger)
}

// newWay makes the dialer of links to a relay.
func newWay(file *config.Connector, to tunnel.Endpoint, proxy *proxycfg.Proxy, memory tunnel.CarrierMemory, tlsConfig func() *tls.Config, logger *slog.Logger) *tunnel.Dialer {
	d := &tunnel.Dialer{
		Endpoint: to,
		TLS:      tlsConfig,
		DialTCP:  proxy.DialContext,
		Proxied: func(host string, port int) (bool, error) {
			u, err := proxy.For(host, port)
			return u != nil, err
		},
		Explain: proxy.Explain,
		Upgrade: proxy.Upgrade,
		Memory:  memory,
		Logger:  logger,
	}
	for _, c := range file.Carriers {
		d.Carriers = append(d.Carriers, tunnel.Carrier(c))
	}
	return d
}

// hostPort is where a relay is, for people.
func hostPort(e tunnel.Endpoint) string {
	return net.JoinHostPort(e.Host, strconv.Itoa(cmp.Or(e.TLSPort, e.QUICPort, defaultPort)))
}

func hostPorts(list []tunnel.Endpoint) (texts []string) {
	for _, e := range list {
		texts = append(texts, hostPort(e))
	}
	return texts
}

// maxNetworks bounds how many networks are remembered.
const maxNetworks = 64

// carrierMemory is carriers.json: what worked last, by network and relay. It is no more
// than a hint, so what is wrong with the file is only logged.
type carrierMemory struct {
	dir    *stateDir
	logger *slog.Logger

	mu sync.Mutex
	// guarded by mu
	known map[string]tunnel.Carrier
}

func newCarrierMemory(dir *stateDir, logger *slog.Logger) *carrierMemory {
	m := &carrierMemory{dir: dir, logger: logger, known: make(map[string]tunnel.Carrier)}
	if raw, err := dir.read(fileCarriers); err == nil {
		if err := json.Unmarshal(raw, &m.known); err != nil || m.known == nil {
			logger.Warn("what worked last is not readable and is found out again", "file", dir.file(fileCarriers), "error", err)
			m.known = make(map[string]tunnel.Carrier)
		}
	}
	return m
}

// of is the memory for one relay.
func (m *carrierMemory) of(relay tunnel.Endpoint) tunnel.CarrierMemory {
	return &relayMemory{m, relay.Host}
}

// relayMemory is the carrierMemory of one relay: where UDP reaches one, it may not
// reach another.
type relayMemory struct {
	*carrierMemory
	host string
}

func (m *relayMemory) key(network string) string { return network + " " + m.host }

// Recall is tunnel.CarrierMemory's.
func (m *relayMemory) Recall(network string) (tunnel.Carrier, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.known[m.key(network)]
	return c, ok
}

// Remember is tunnel.CarrierMemory's.
func (m *relayMemory) Remember(network string, c tunnel.Carrier) {
	m.mu.Lock()
	if len(m.known) >= maxNetworks {
		clear(m.known)
	}
	m.known[m.key(network)] = c
	known := maps.Clone(m.known)
	m.mu.Unlock()
	raw, err := json.Marshal(known)
	if err == nil {
		err = m.dir.replace(fileCarriers, raw)
	}
	if err != nil {
		m.logger.Warn("which carrier works was not saved", "error", err)
	}
}
