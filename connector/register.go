package connector

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/ebbgate/ebbgate/config"
)

// Options is what `connector register` was asked to do.
type Options struct {
	// File is the checked configuration: state directory, carriers and proxy
	// are used.
	File *config.Connector
	// Relay is where to register; nil: as File says.
	Relay *config.Endpoint
	// KeyFile holds the gateway's authentication key; "-" is Stdin.
	KeyFile string
	// Stdin is read when KeyFile is "-".
	Stdin io.Reader
	// Name is the node's; empty: the host's name, made valid.
	Name string
	// Software names this program and its version to the relay: ebbgate/0.1.0.
	Software string
	// Environment looks up the variables that name a proxy; nil: os.Getenv.
	Environment func(string) string
	// Logger takes what happens; nil discards.
	Logger *slog.Logger
}

// Registered says which node this machine became.
type Registered struct {
	Identity           string    `json:"identity"`
	Tenant             string    `json:"tenant"`
	Gateway            string    `json:"gateway"`
	Node               string    `json:"node"`
	Relay              string    `json:"relay"` // host:port
	Carrier            string    `json:"carrier"`
	StateDir           string    `json:"state_dir"`
	CertificateExpires time.Time `json:"certificate_expires"`
}

// Register makes a node of this machine: it proves the key to the relay, over
// any carrier and through the configured proxy, and writes the registration
// and the identity into the state directory. Nothing is written unless all went
// well, and nothing is ever registered over.
func Register(ctx context.Context, opt Options) (*Registered, error) { panic("todo") }
