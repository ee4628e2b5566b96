package client

import (
	"context"
	"log/slog"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

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
type Client struct {
	pool *pool
}

// New checks the configuration and reads the token file; it touches no network.
func New(cfg Config) (*Client, error) { panic("todo") }

// Run keeps the session until ctx ends (nil) or until an error that trying
// again cannot mend.
func (c *Client) Run(ctx context.Context) error { panic("todo") }

// Open opens a stream to a store. It waits for the session, for a node of the
// gateway that is online and for the node's answer, as long as ctx lasts.
func (c *Client) Open(ctx context.Context, t Target) (*bundle.Stream, error) {
	return c.pool.open(ctx, t)
}

// Check asks the relay whether the job may dial a target and, where a node is
// online, has everything ready for the first stream. No node online is no error.
func (c *Client) Check(ctx context.Context, t Target) error { return c.pool.check(ctx, t) }
