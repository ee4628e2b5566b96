package connector

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebbgate/ebbgate/config"
)

// Config is what a [Connector] needs. It is read once and never changed.
type Config struct {
	// File is the checked configuration.
	File *config.Connector
	// Software names this program and its version to the relay: ebbgate/0.1.0.
	Software string
	// Environment looks up the variables that name a proxy; nil: os.Getenv.
	Environment func(string) string
	// Resolver resolves the names of stores; nil: the system's.
	Resolver Resolver
	// Ready is called once, when the first session is up; nil: nobody asks. It
	// must not block.
	Ready func(Ready)
	// Registry takes the metrics; nil: nobody reads them.
	Registry prometheus.Registerer
	// Logger takes what happens; nil discards.
	Logger *slog.Logger
}

// Ready says what serves, for the line that the command prints.
type Ready struct {
	Node    string `json:"node"`    // the identity
	Relay   string `json:"relay"`   // host:port
	Carrier string `json:"carrier"` // of the first session
	Proxy   string `json:"proxy"`   // host:port; empty: none
	Status  string `json:"status"`  // the path of the status socket
}

// Connector serves a node's stores.
type Connector struct{ cfg Config }

// New checks cfg; it does no I/O and starts nothing.
func New(cfg Config) (*Connector, error) { panic("todo") }

// Run serves until ctx ends (nil) or until an error that trying again cannot
// mend. When ctx ends, every ingress is told that the node stops and all
// streams are reset, within a second.
func (c *Connector) Run(ctx context.Context) error { panic("todo") }
