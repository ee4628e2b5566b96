package connector

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/proxycfg"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Config is what a [Connector] needs. It is read once and never changed.
type Config struct {
	// File is the checked configuration to start with.
	File *config.Connector
	// Path is the file that File was read from, which is watched; empty: none.
	Path string
	// Reload reads the configuration again; nil: it never changes.
	Reload func() (*config.Connector, error)
	// Hangup asks, by each value, to read it again; nil: nobody asks.
	Hangup <-chan os.Signal
	// Level is set to what a configuration says; nil: nobody follows it.
	Level *slog.LevelVar
	// Software names this program and its version to the relay: ebbgate/0.1.0.
	Software string
	// Environment looks up the variables that name a proxy; nil: os.Getenv.
	Environment func(string) string
	// Resolver resolves names of stores; nil: the system's.
	Resolver Resolver
	// Ready is called once, when the first session is up; nil: nobody asks. It
	// must not block.
	Ready func(Ready)
	// Registry takes the metrics, and gives them to the metrics address; nil: one
	// of the connector's own.
	Registry *prometheus.Registry
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
	Metrics string `json:"metrics,omitempty"`
}

// Connector serves a node's stores. Run it once.
type Connector struct {
	cfg         Config
	logger      *slog.Logger
	proxy       *proxycfg.Proxy
	incarnation uint64
	metrics     *metrics
	bundles     bundle.Config
}

// maxAnnounced bounds the stores of a hello, in bytes: a message has 64 KiB.
const maxAnnounced = 60 << 10

// New checks cfg; it does no I/O and starts nothing.
func New(cfg Config) (*Connector, error) {
	if cfg.File == nil {
		return nil, errors.New("connector: no configuration")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Environment == nil {
		cfg.Environment = os.Getenv
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if err := announceable(cfg.File.Stores); err != nil {
		return nil, err
	}
	proxy, err := newProxy(cfg.File, cfg.Environment, cfg.Logger)
	if err != nil {
		return nil, err
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	c := &Connector{
		cfg: cfg, logger: cfg.Logger, proxy: proxy,
		incarnation: binary.BigEndian.Uint64(random[:]),
		metrics:     newMetrics(cfg.Registry),
	}
	c.bundles = bundle.Config{
		Incarnation: c.incarnation, Pool: bundle.ProcessPool(),
		ResumeGrace: cfg.File.ResumeGrace, Logger: cfg.Logger, Metrics: bundle.NewMetrics(cfg.Registry),
	}
	return c, nil
}

// Run serves until ctx ends (nil) or until an error that trying again cannot
// mend. When ctx ends, every ingress is told that the node stops and all
// streams are reset, within a second. It owns the state directory meanwhile.
func (c *Connector) Run(ctx context.Context) error {
	dir, err := openStateDir(c.cfg.File.StateDir)
	if err != nil {
		return err
	}
	defer dir.close()
	reg, saved, err := dir.loadNode()
	if err != nil {
		return err
	}
	r, err := newRunning(c, dir, reg, saved)
	if err != nil {
		return err
	}
	if r.scraped, err = c.listenMetrics(ctx); err != nil {
		return err
	}
	return r.run(ctx)
}
