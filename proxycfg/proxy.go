package proxycfg

import (
	"context"
	"log/slog"
	"net"
	"net/url"
)

// Proxy dials as Settings say. Make one with [New].
type Proxy struct{}

// Status is what a person wants to know about the proxy.
type Status struct {
	// Proxy is host:port of the configured proxy, in ModeSystem of the one last
	// used; empty: none.
	Proxy string
	// Auth is the scheme that the proxy accepted; empty: none was asked for yet.
	Auth Scheme
	// Refused says that the proxy refused the credential and that it is not tried
	// again until something changes.
	Refused bool
}

// New validates the settings. The error is an [*Error] that names the key. A nil
// logger discards.
func New(set Settings, logger *slog.Logger) (*Proxy, error) { panic("todo") }

// For tells the proxy for a destination; nil: it is dialled directly. The URL
// holds no user information. It does no I/O.
func (p *Proxy) For(host string, port int) (*url.URL, error) { panic("todo") }

// DialContext connects to addr, host:port, through the proxy where there is one
// for it. network is tcp, tcp4 or tcp6 and limits only direct connections. Every
// error is an [*Error].
func (p *Proxy) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	panic("todo")
}

// Explain puts the failure of the first exchange on a connection of DialContext
// to addr into words: where a proxy's 200 was followed by silence, an end, or
// something that is not TLS, an [*Error] that says so and wraps err; in all
// other cases err itself.
func (p *Proxy) Explain(addr string, err error) error { panic("todo") }

// Status tells the state of the proxy.
func (p *Proxy) Status() Status { panic("todo") }
