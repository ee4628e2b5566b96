package state

import (
	"context"
	"log/slog"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// Options say where the state is.
type Options struct {
	Dir     string           // made by Init where it is missing
	KeyFile string           // default: state.key in Dir
	Logger  *slog.Logger     // nil discards
	Now     func() time.Time // nil is time.Now
}

// State is the open state of a relay. It is safe for concurrent use. What it
// returns is the caller's to read, not to change.
type State struct{}

// Init makes state: an instance with a random id, tenant default, and the first
// generation of the CA. It is an [ErrExists] if anything of a state is there
// already. Where it was cut off, the next Init or Open finishes it, or nothing
// was made.
//
// A key file that exists is used if it is not bound to an instance: 32 bytes in
// base64 or hexadecimal digits, as "openssl rand -base64 32" makes them.
func Init(ctx context.Context, opt Options) error { panic("todo") }

// Open opens state that Init made. Errors are [ErrMissing] where nothing was ever
// made, [ErrInUse] where another relay has it open, or a *[CorruptError].
func Open(ctx context.Context, opt Options) (*State, error) { panic("todo") }

// Close waits for a change that is under way and closes the database. Reads
// still answer afterwards, changes are an [ErrUnavailable].
func (s *State) Close() error { panic("todo") }

// Instance is the instance's id, which is the trust domain of its identities.
func (s *State) Instance() string { panic("todo") }

// Revision grows by one with each change.
func (s *State) Revision() int64 { panic("todo") }

// Authorities are the generations of the CA, oldest first; the last one signs.
func (s *State) Authorities() []*certs.Authority { panic("todo") }

// CreateGateway makes a gateway with two fresh authentication keys.
func (s *State) CreateGateway(ctx context.Context, tenant, name string) (Gateway, error) {
	panic("todo")
}

// Gateway finds a gateway: [ErrNotFound] where there is none.
func (s *State) Gateway(tenant, name string) (Gateway, error) { panic("todo") }

// Gateways are a tenant's, sorted by name.
func (s *State) Gateways(tenant string) []Gateway { panic("todo") }

// GatewayKeys are a gateway's authentication keys in the form that nodes
// register with. They are secrets.
func (s *State) GatewayKeys(tenant, name string) (key1, key2 string, err error) { panic("todo") }

// RegenerateKey replaces one of a gateway's keys, slot [Key1] or [Key2], and
// gives the new one. The old one is refused from now on.
func (s *State) RegenerateKey(ctx context.Context, tenant, name, slot string) (string, error) {
	panic("todo")
}

// CheckKey tells which gateway an authentication key is of, and its slot. A
// wrong key is an [ErrRefused].
func (s *State) CheckKey(gatewayID string, secret certs.Secret) (g Gateway, slot string, err error) {
	panic("todo")
}

// RegisterNode makes a node with its public key (PKIX) and counter 0.
func (s *State) RegisterNode(ctx context.Context, tenant, gateway, name string, pub []byte) (Node, error) {
	panic("todo")
}

// Node finds a node: [ErrNotFound] where there is none.
func (s *State) Node(tenant, gateway, name string) (Node, error) { panic("todo") }

// Nodes are a gateway's, sorted by name.
func (s *State) Nodes(tenant, gateway string) []Node { panic("todo") }

// RenewNode takes over the public key (PKIX) of a node's certificate number
// counter. The same counter and key again change nothing. The number that the
// node has already, with another key, replaces the key: the node never got the
// answer. Smaller numbers are an [ErrRefused]: they come from an old copy of the
// node. Greater ones are accepted: the relay may have been restored from a
// backup, and the caller knows the node by its certificate.
func (s *State) RenewNode(ctx context.Context, tenant, gateway, name string, counter int, pub []byte) (Node, error) {
	panic("todo")
}

// AnnounceStores remembers a node's stores. It writes only what changed.
func (s *State) AnnounceStores(ctx context.Context, tenant, gateway, name string, stores []StoreRow) error {
	panic("todo")
}

// CreateJob makes a job and its token, which is never shown again. The allow
// list has gateway/store, or gateway/* for every store of a gateway; neither has
// to exist yet. The name of a revoked job may be used again: whoever knows jobs
// by their certificates must compare Job.Created with when those were issued.
func (s *State) CreateJob(ctx context.Context, tenant, name string, allow []string) (job Job, token string, err error) {
	panic("todo")
}

// Job finds a job, revoked or not: [ErrNotFound] where there is none.
func (s *State) Job(tenant, name string) (Job, error) { panic("todo") }

// Jobs are a tenant's, revoked ones too, sorted by name.
func (s *State) Jobs(tenant string) []Job { panic("todo") }

// RevokeJob ends a job's token. Revoking it again changes nothing.
func (s *State) RevokeJob(ctx context.Context, tenant, name string) error { panic("todo") }

// CheckToken tells which job a token is of. A wrong or revoked one is an
// [ErrRefused].
func (s *State) CheckToken(jobID string, secret certs.Secret) (Job, error) { panic("todo") }
