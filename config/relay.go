package config

// Relay is relay.yaml, checked.
type Relay struct {
	// Hostname is how connectors and clients reach the relay: a DNS name or an
	// IP address.
	Hostname string
	Listen   RelayListen
	Ingress  RelayIngress
	State    RelayState
	TLS      RelayTLS
	// Metrics is where Prometheus metrics are served; empty: nowhere.
	Metrics Listen
}

// RelayListen says where connectors and clients come in.
type RelayListen struct {
	// TLS is the TCP port that sessions and lanes arrive on.
	TLS Listen
	// QUIC is the UDP port; empty: no QUIC. Unless told otherwise, it is the
	// same address as TLS.
	QUIC Listen
}

// RelayIngress says where jobs come in.
type RelayIngress struct {
	// Connect is the HTTP CONNECT port, on loopback; empty: none.
	Connect Listen
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
func LoadRelay(opt Options) (*Relay, error) { panic("todo") }
