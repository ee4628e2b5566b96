package config

// Connector is connector.yaml, checked.
type Connector struct {
	// Relay overrides what the registration says; nil: the registration rules.
	Relay    *Endpoint
	StateDir string
	// Carriers are tried in this order; empty: all, raced.
	Carriers []Carrier
	Proxy    Proxy
	Stores   []Store
}

// Carrier is what a session may travel on.
type Carrier string

// The carriers that there are.
const (
	CarrierQUIC Carrier = "quic"
	CarrierTLS  Carrier = "tls"
)

// Endpoint is where a relay is.
type Endpoint struct {
	Host string
	// TLS and QUIC are ports; 0: as the registration says, else 443.
	TLS, QUIC int
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
	// AllowSpecial are the classes of addresses that are not refused.
	AllowSpecial []Special
	// Jobs that it serves; empty: all.
	Jobs []string
	// Ingress are the kinds that it serves; never empty.
	Ingress []IngressKind
}

// LoadConnector reads and checks a connector's configuration. Its error is an
// [*Error].
func LoadConnector(opt Options) (*Connector, error) { panic("todo") }
