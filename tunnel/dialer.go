package tunnel

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
)

// Endpoint is where a relay is.
type Endpoint struct {
	Host     string // name or address
	TLSPort  int    // 0: no TLS
	QUICPort int    // 0: no QUIC
}

// CarrierMemory remembers which carrier won in a network. Its methods are called
// from one goroutine at a time for each Dialer.
type CarrierMemory interface {
	Load(network string) Carrier // "": nothing is known
	Store(network string, c Carrier)
}

// Dialer makes links to one relay. Its fields are set once; its methods may be
// called from any goroutine. Close it when it is no longer used.
type Dialer struct {
	Endpoint Endpoint
	// Carriers are those to try, in this order of preference; nil: all.
	Carriers []Carrier
	// TLS gives the configuration of certs for each attempt; ALPN and server name are
	// filled in.
	TLS func() *tls.Config
	// DialTCP connects, through a proxy where one is configured; nil: directly.
	// Its errors keep their hop if they name one.
	DialTCP func(ctx context.Context, network, addr string) (net.Conn, error)
	// Direct tells whether the relay is reached without a proxy, which only some
	// carriers can do; nil: it is.
	Direct func(ctx context.Context, host string, port int) (bool, error)
	// Explain may give a better error for a connection of DialTCP's that was
	// made and then failed during the handshake; nil: none.
	Explain func(addr string, err error) error
	// Memory remembers winners; nil: this process' own memory.
	Memory CarrierMemory
	// Network names the network that this machine is in, for Memory; nil: by the
	// local address that reaches the relay.
	Network func(ctx context.Context) string
	// Logger is where attempts go; nil discards.
	Logger *slog.Logger
	// Metrics counts; nil does not.
	Metrics *Metrics
}

// Dial makes a link over the first carrier that works: the one that won last time
// in this network begins, the others follow in their order, each 250 ms after
// the one before or when that failed. Its error is a *DialError.
func (d *Dialer) Dial(ctx context.Context) (Link, error) { panic("todo") }

// DialCarrier makes a link over one carrier. Its error is a *DialError.
func (d *Dialer) DialCarrier(ctx context.Context, c Carrier) (Link, error) { panic("todo") }

// DialBetter tries the carriers that are preferred to c, and gives nil, nil where there
// are none.
func (d *Dialer) DialBetter(ctx context.Context, c Carrier) (Link, error) { panic("todo") }

// Close releases the dialer's UDP socket. Links that it made over QUIC end.
func (d *Dialer) Close() error { panic("todo") }

// Attempt is how one carrier failed.
type Attempt struct {
	Carrier Carrier
	Err     error // has Code, Hop and Advice
}

// DialError is a relay that was not reached: one error for each carrier. Code, Hop
// and Advice are those of the most telling one.
type DialError struct {
	Endpoint Endpoint
	Attempts []Attempt
}

// Error names each carrier and what was seen on it.
func (e *DialError) Error() string { panic("todo") }

// Code is that of the most telling attempt.
func (e *DialError) Code() string { panic("todo") }

// Hop is that of the most telling attempt.
func (e *DialError) Hop() string { panic("todo") }

// Advice is that of the most telling attempt.
func (e *DialError) Advice() string { panic("todo") }

// Permanent says that no attempt can succeed until somebody changes something.
func (e *DialError) Permanent() bool { panic("todo") }

// Unwrap gives the attempts' errors.
func (e *DialError) Unwrap() []error { panic("todo") }
