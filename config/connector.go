package config

import (
	"fmt"
	"strings"
	"time"
)

// Connector is connector.yaml, checked.
type Connector struct {
	// Relays override what the registration says; none: the registration rules.
	Relays []Endpoint
	// RelaysOnly says that they were a list: there are no others. Else relays tell
	// of each other.
	RelaysOnly bool
	StateDir   string
	// Carriers are tried in this order; empty: all, raced.
	Carriers []Carrier
	Proxy    Proxy
	Stores   []Store
	Log      Log
	// ResumeGrace is how long streams outlive the last lane to their ingress; 0:
	// not at all.
	ResumeGrace time.Duration
	// Lanes bound the connections to the relay that carry streams.
	Lanes Lanes
	// Metrics is where Prometheus metrics are served, on loopback; empty: nowhere.
	Metrics Listen
}

// Lanes bound direct lanes.
type Lanes struct {
	// Max is how many carry bulk between one ingress and this node, 1 to MostLanes.
	Max int
	// Total is how many the node has, to MostLanesTotal; 0: as many as suit the way
	// to the relay.
	Total int
}

// What lanes may be set to, and what they are otherwise.
const (
	DefaultLanes   = 16
	MostLanes      = 64
	MostLanesTotal = 1024
)

// Carrier is what a session may travel on.
type Carrier string

// The carriers that there are.
const (
	CarrierQUIC Carrier = "quic"
	CarrierTLS  Carrier = "tls"
	CarrierWSS  Carrier = "wss"
	CarrierWS   Carrier = "ws"
)

// Endpoint is where a relay is.
type Endpoint struct {
	Host string
	// TLS, QUIC and HTTP are ports; 0: as the registration says, else 443, for
	// HTTP 80.
	TLS, QUIC, HTTP int
}

// ProxyMode says where the proxy comes from.
type ProxyMode string

// The modes that there are.
const (
	ProxyNone   ProxyMode = "none"   // never a proxy
	ProxySystem ProxyMode = "system" // HTTPS_PROXY, HTTP_PROXY, NO_PROXY
	ProxyCustom ProxyMode = "custom" // Proxy.URL
)

// ProxyAuth is a way to authenticate at a proxy.
type ProxyAuth string

// The schemes that there are.
const (
	ProxyNTLM  ProxyAuth = "ntlm"
	ProxyBasic ProxyAuth = "basic"
)

// Proxy is how the connector leaves its network.
type Proxy struct {
	Mode ProxyMode
	// URL is set exactly in mode custom: http://host:port, without a user.
	URL string
	// Username may be DOMAIN\user or user@domain; it comes with PasswordFile.
	Username, PasswordFile string
	// Auth are the schemes that may be used, in order of preference.
	Auth []ProxyAuth
	// Bypass are the hosts that are reached directly: names, *.domain,
	// addresses, networks.
	Bypass []string
}

// Special is a class of addresses that is refused unless a store allows it.
type Special string

// The classes that there are.
const (
	SpecialLoopback  Special = "loopback"
	SpecialLinkLocal Special = "link-local"
	SpecialMetadata  Special = "metadata"
	SpecialRelay     Special = "relay"
	SpecialProxy     Special = "proxy"
)

// IngressKind is where a job's connection may have entered.
type IngressKind string

// The kinds that there are.
const (
	IngressRelay  IngressKind = "relay"
	IngressClient IngressKind = "client"
)

// Store is an endpoint that the connector may dial.
type Store struct {
	Name string
	// Host is a DNS name or an IP address, Port is 1 to 65535.
	Host string
	Port int
	// Aliases are other names for it, host:port, by which jobs may dial it at
	// the relay; in lower case, addresses in their canonical form.
	Aliases []string
	// AllowSpecial are the classes of addresses that are not refused.
	AllowSpecial []Special
	// Jobs that it serves; empty: all.
	Jobs []string
	// Ingress are the kinds that it serves; never empty.
	Ingress []IngressKind
}

// LoadConnector reads and checks a connector's configuration. Its error is an
// [*Error].
func LoadConnector(opt Options) (*Connector, error) {
	var raw rawConnector
	m, err := load(opt, connectorPrefix, &raw)
	if err != nil {
		return nil, err
	}
	return raw.check(m)
}

const connectorPrefix = "EBBGATE_CONNECTOR_"

// rawConnector mirrors connector.yaml.
type rawConnector struct {
	Relay    []rawEndpoint `mapstructure:"relay" short:"address" usage:"host[:port] of the relay, or several, instead of the registered ones"`
	StateDir string        `mapstructure:"state_dir" usage:"folder for registration, keys and the status socket"`
	Carriers []string      `mapstructure:"carriers" short:"list" usage:"auto, or carriers in order of preference (quic, tls, wss, ws)"`
	Proxy    struct {
		Mode         string   `mapstructure:"mode" usage:"none, system or custom"`
		URL          string   `mapstructure:"url" usage:"http://host:port of the proxy, with mode custom"`
		Username     string   `mapstructure:"username" usage:"user at the proxy: user, DOMAIN\\user or user@domain"`
		PasswordFile string   `mapstructure:"password_file" usage:"file with the password at the proxy"`
		Auth         []string `mapstructure:"auth" usage:"schemes that may be used (ntlm, basic)"`
		Bypass       []string `mapstructure:"bypass" usage:"hosts that are reached without the proxy"`
	} `mapstructure:"proxy"`
	Stores      []rawStore `mapstructure:"stores"`
	Log         rawLog     `mapstructure:"log"`
	ResumeGrace string     `mapstructure:"resume_grace" usage:"how long streams wait for a lost relay to come back (120s; 0: not at all)"`
	Lanes       struct {
		Max   int `mapstructure:"max" usage:"connections at most that carry the bulk of one ingress (16)"`
		Total int `mapstructure:"total" usage:"connections at most that carry streams (64, behind a proxy 8)"`
	} `mapstructure:"lanes"`
	Metrics string `mapstructure:"metrics" usage:"loopback address on which Prometheus metrics are served"`
}

// rawEndpoint is {host, tls, quic, http} or one text, which becomes Address.
type rawEndpoint struct {
	Address string `mapstructure:"address" hidden:"true"`
	Host    string `mapstructure:"host"`
	TLS     int    `mapstructure:"tls"`
	QUIC    int    `mapstructure:"quic"`
	HTTP    int    `mapstructure:"http"`
	Alone   bool   `mapstructure:"alone" hidden:"true"` // it was no element of a list
}

type rawStore struct {
	Name         string   `mapstructure:"name"`
	Address      string   `mapstructure:"address"`
	Aliases      []string `mapstructure:"aliases"`
	AllowSpecial []string `mapstructure:"allow_special"`
	Jobs         []string `mapstructure:"jobs"`
	Ingress      []string `mapstructure:"ingress"`
}

func (raw *rawConnector) check(m *merged) (*Connector, error) {
	c := &checker{origin: m.where}
	conn := &Connector{
		Relays:      raw.checkRelays(c),
		RelaysOnly:  raw.relaysOnly(),
		StateDir:    or(raw.StateDir, defaultDir("ebbgate-connector")),
		Proxy:       raw.checkProxy(c),
		Log:         raw.Log.check(c),
		ResumeGrace: c.duration("resume_grace", raw.ResumeGrace, DefaultResumeGrace, maxResumeGrace),
		Lanes:       Lanes{Max: c.count("lanes.max", raw.Lanes.Max, DefaultLanes, MostLanes), Total: c.count("lanes.total", raw.Lanes.Total, 0, MostLanesTotal)},
		Metrics:     c.listen("metrics", raw.Metrics),
	}
	if conn.Metrics != "" && !conn.Metrics.loopback() {
		c.add("metrics", quote(raw.Metrics)+" is not on loopback: a connector opens no port to its network", `metrics: "127.0.0.1:9465"`)
	}
	if len(raw.Carriers) != 1 || raw.Carriers[0] != "auto" {
		conn.Carriers = choices(c, "carriers", raw.Carriers, CarrierQUIC, CarrierTLS, CarrierWSS, CarrierWS)
	}
	names := make(map[string]int)
	for i, s := range raw.Stores {
		key := fmt.Sprintf("stores[%d]", i)
		conn.Stores = append(conn.Stores, s.check(c, key))
		if first, again := names[s.Name]; again && s.Name != "" {
			c.add(key+".name", fmt.Sprintf("%s is also the name of stores[%d]", quote(s.Name), first), "")
			continue
		}
		names[s.Name] = i
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return conn, nil
}

// maxRelays is more than an instance has.
const maxRelays = 16

const exampleRelay = "relay: relay.example.com, or relay: {host: relay.example.com, tls: 8443, quic: 8443, http: 8080}, or a list of these"

func (raw *rawConnector) checkRelays(c *checker) (list []Endpoint) {
	if len(raw.Relay) > maxRelays {
		c.add("relay", fmt.Sprintf("names %d relays, more than %d", len(raw.Relay), maxRelays), "")
		return nil
	}
	first := make(map[Endpoint]int)
	for i, r := range raw.Relay {
		key := "relay"
		if len(raw.Relay) > 1 {
			key = fmt.Sprintf("relay[%d]", i)
		}
		e, ok := r.check(c, key)
		if !ok {
			continue
		}
		if n, again := first[e]; again {
			c.add(key, fmt.Sprintf("is the same as relay[%d]", n), "")
			continue
		}
		first[e] = i
		list = append(list, e)
	}
	return list
}

// relaysOnly tells whether relay is a list.
func (raw *rawConnector) relaysOnly() bool { return len(raw.Relay) > 0 && !raw.Relay[0].Alone }

// check checks one relay; !ok: it says nothing, or nothing that is right.
func (raw rawEndpoint) check(c *checker, key string) (e Endpoint, ok bool) {
	if raw.Address != "" {
		host, port, ok := splitHostPort(raw.Address)
		if !ok || !validHost(host) {
			c.add(key, quote(raw.Address)+" is not host or host:port", exampleRelay)
			return Endpoint{}, false
		}
		return Endpoint{Host: host, TLS: port}, true
	}
	if raw == (rawEndpoint{Alone: raw.Alone}) {
		return Endpoint{}, false
	}
	if raw.Host == "" {
		c.add(key+".host", "is missing", exampleRelay)
	} else {
		c.host(key+".host", raw.Host, "relay.example.com")
	}
	c.port(key+".tls", raw.TLS)
	c.port(key+".quic", raw.QUIC)
	c.port(key+".http", raw.HTTP)
	return Endpoint{Host: raw.Host, TLS: raw.TLS, QUIC: raw.QUIC, HTTP: raw.HTTP}, true
}

func (raw *rawConnector) checkProxy(c *checker) Proxy {
	p := Proxy{
		Mode:         choice(c, "proxy.mode", or(raw.Proxy.Mode, string(ProxySystem)), ProxyNone, ProxySystem, ProxyCustom),
		URL:          raw.Proxy.URL,
		Username:     raw.Proxy.Username,
		PasswordFile: raw.Proxy.PasswordFile,
		Auth:         []ProxyAuth{ProxyNTLM, ProxyBasic},
		Bypass:       raw.Proxy.Bypass,
	}
	if raw.Proxy.Auth != nil {
		p.Auth = choices(c, "proxy.auth", raw.Proxy.Auth, ProxyNTLM, ProxyBasic)
		if len(raw.Proxy.Auth) == 0 {
			c.add("proxy.auth", "is an empty list", "auth: [ntlm, basic]")
		}
	}
	if p.URL != "" {
		c.proxyURL("proxy.url", p.URL)
	}
	switch {
	case p.Mode == ProxyCustom && p.URL == "":
		c.add("proxy.mode", "custom needs proxy.url", exampleProxy)
	case p.Mode == ProxySystem && p.URL != "":
		c.add("proxy.url", "is used with proxy.mode custom only", "mode: custom")
	case p.Mode == ProxyNone:
		p.URL = ""
	}
	switch {
	case p.Username != "" && p.PasswordFile == "":
		c.add("proxy.username", "needs proxy.password_file beside it", "password_file: /etc/ebbgate/proxy-password")
	case p.Username == "" && p.PasswordFile != "":
		c.add("proxy.password_file", "needs proxy.username beside it", `username: CORP\svc-ebbgate`)
	}
	for i, b := range p.Bypass {
		if b == "" || strings.ContainsAny(b, " \t,;@") || strings.Contains(b, "://") {
			c.add(fmt.Sprintf("proxy.bypass[%d]", i), quote(b)+" is no host, *.domain, address or network",
				`bypass: ["*.corp.example", 10.0.0.0/8]`)
		}
	}
	return p
}

func (raw rawStore) check(c *checker, key string) Store {
	s := Store{Jobs: raw.Jobs, Ingress: []IngressKind{IngressRelay, IngressClient}}
	const example = "{name: erp-sql, address: sql01.corp.example:1433}"
	if raw.Name == "" {
		c.add(key+".name", "is missing", example)
	} else {
		s.Name = c.name(key+".name", raw.Name, "name: erp-sql")
	}
	if raw.Address == "" {
		c.add(key+".address", "is missing", example)
	} else {
		var ok bool
		s.Host, s.Port, ok = splitHostPort(raw.Address)
		if !ok || s.Port == 0 || !validHost(s.Host) {
			c.add(key+".address", quote(raw.Address)+" is not host:port", "address: sql01.corp.example:1433")
		}
	}
	s.Aliases = c.aliases(key+".aliases", raw.Aliases)
	s.AllowSpecial = choices(c, key+".allow_special", raw.AllowSpecial,
		SpecialLoopback, SpecialLinkLocal, SpecialMetadata, SpecialRelay, SpecialProxy)
	for i, job := range raw.Jobs {
		c.name(fmt.Sprintf("%s.jobs[%d]", key, i), job, "jobs: [nightly-copy]")
	}
	if len(raw.Ingress) > 0 {
		s.Ingress = choices(c, key+".ingress", raw.Ingress, IngressRelay, IngressClient)
	}
	return s
}
