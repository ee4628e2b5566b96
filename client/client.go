package client

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Target is a store behind a gateway.
type Target struct{ Gateway, Store string }

// ParseTarget reads GATEWAY/STORE.
func ParseTarget(s string) (Target, error) { panic("todo") }

// String is GATEWAY/STORE.
func (t Target) String() string { return t.Gateway + "/" + t.Store }

// Config is what a [Client] needs to know. The command fills it from flags and
// environment (EBBGATE_RELAY, EBBGATE_JOB_TOKEN_FILE).
type Config struct {
	// Relay is host[:tls-port] of the relay; the port is 443 unless given.
	Relay string
	// TokenFile holds the job's token. "-" is standard input.
	TokenFile string
	// Carriers restricts what the session may travel on; empty: all, raced.
	Carriers []string
	// Environment gives the variables that name proxies; nil: os.Getenv.
	Environment func(string) string
	// Logger takes what happens; nil discards.
	Logger *slog.Logger
}

// Client is one job's process at the relay.
type Client struct{}

// New checks the configuration and reads the token file; it touches no network.
func New(cfg Config) (*Client, error) { panic("todo") }

// Run keeps the session until ctx ends (nil) or until an error that trying
// again cannot mend.
func (c *Client) Run(ctx context.Context) error { panic("todo") }

// Open opens a stream to a store. It waits for the session, for a node of the
// gateway that is online and for the node's answer, as long as ctx lasts.
func (c *Client) Open(ctx context.Context, t Target) (*bundle.Stream, error) { panic("todo") }

// Summary is what a run did.
type Summary struct {
	Streams      int     `json:"streams"`
	Failed       int     `json:"failed"`
	BytesRead    int64   `json:"bytes_read"`
	BytesWritten int64   `json:"bytes_written"`
	Seconds      float64 `json:"seconds"`
}

// Forwarder accepts connections on a port and carries each to one store.
type Forwarder struct {
	Client *Client
	Target Target
	Logger *slog.Logger
}

// Listen makes the listener that Run needs: its connections are reset, not
// closed, if the process dies (SO_LINGER 0 from birth).
func Listen(ctx context.Context, addr string) (*net.TCPListener, error) {
	return nil, errors.New("todo")
}

// Run serves ln until ctx ends, and closes it.
func (f *Forwarder) Run(ctx context.Context, ln *net.TCPListener) (Summary, error) { panic("todo") }
