package connector

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
)

// Options is what `connector register` was asked to do.
type Options struct {
	// File is the checked configuration: state directory, carriers and proxy
	// are used.
	File *config.Connector
	// Relay is where to register; nil: as File says, at the first that answers.
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

// identityRoom is what the files of a registration need at most, in bytes.
const identityRoom = 64 << 10

// Register makes a node of this machine: it proves the key to the relay, over
// any carrier and through the configured proxy, and writes the registration
// and the identity into the state directory. Neither is written unless all went
// well, nothing is ever registered over, and an attempt that failed half way can
// be made again.
func Register(ctx context.Context, opt Options) (*Registered, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	name, err := nodeName(opt.Name)
	if err != nil {
		return nil, err
	}
	relays, err := opt.endpoints()
	if err != nil {
		return nil, err
	}
	if err := unregistered(opt.File.StateDir); err != nil {
		return nil, err
	}
	key, err := readKey(opt.KeyFile, opt.Stdin)
	if err != nil {
		return nil, err
	}
	dir, err := openStateDir(opt.File.StateDir)
	if err != nil {
		return nil, err
	}
	defer dir.close()
	if err := unregistered(dir.path); err != nil { // nobody else can change that any more
		return nil, err
	}
	if err := dir.probe(identityRoom); err != nil {
		return nil, err
	}
	saved, reg, carrier, err := opt.enrol(ctx, dir, relays, name, key)
	if err != nil {
		return nil, err
	}
	if err := dir.saveNode(reg, saved); err != nil {
		e := saveError(dir.path, err)
		e.advice = fmt.Sprintf("make room there, and register again as %s: the relay knows the machine by its key", name)
		return nil, e
	}
	_ = dir.remove(fileEnrolment) // its key is the identity's now
	id, err := savedIdentity(saved)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(saved.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("connector: register: %w", err)
	}
	return &Registered{
		Identity: id.String(), Tenant: id.Tenant, Gateway: id.Gateway, Node: id.Name,
		Relay: hostPort(reg.endpoint()), Carrier: string(carrier), StateDir: dir.path, CertificateExpires: leaf.NotAfter,
	}, nil
}

// given are the relays that somebody named.
func (o *Options) given() []config.Endpoint {
	if o.Relay != nil {
		return []config.Endpoint{*o.Relay}
	}
	return o.File.Relays
}

// endpoints are where to register. QUIC is tried at the port of TLS where nothing
// else is said: that is how relays listen.
func (o *Options) endpoints() (list []tunnel.Endpoint, err error) {
	for _, e := range o.given() {
		if e.Host == "" {
			continue
		}
		port := cmp.Or(e.TLS, defaultPort)
		list = append(list, tunnel.Endpoint{Host: e.Host, TLSPort: port, QUICPort: cmp.Or(e.QUIC, port), HTTPPort: cmp.Or(e.HTTP, defaultHTTPPort)})
	}
	if len(list) == 0 {
		return nil, failure("relay-missing", "config", nil, "say where the relay is: --relay HOST[:PORT]", "no relay is given")
	}
	return list, nil
}

// unregistered is nil where there is no registration yet.
func unregistered(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, fileRegistration))
	_, noIdentity := os.Lstat(filepath.Join(dir, certs.IdentityFile))
	if err != nil && !errors.Is(err, fs.ErrPermission) && noIdentity != nil {
		return nil // whatever else is wrong with the directory is told by who opens it
	}
	who := "a node"
	if r, err := parseRegistration(raw); err == nil {
		who = fmt.Sprintf("%s at the relay %s", r.Identity, hostPort(r.endpoint()))
	}
	return failure("already-registered", "registration", nil,
		fmt.Sprintf("run it: ebbgate connector run. To make another node of it, stop the connector, remove %s and register under a new --name", dir),
		"this machine is registered already, as %s (%s)", who, filepath.Join(dir, fileRegistration))
}

// reach makes a link to the first relay that answers, and tells which one of those
// that were named that is.
func (o *Options) reach(ctx context.Context, dir *stateDir, relays []tunnel.Endpoint, key certs.Key) (link tunnel.Link, which int, err error) {
	proxy, err := newProxy(o.File, o.Environment, o.Logger)
	if err != nil {
		return nil, 0, err
	}
	var failed []error
	for i, to := range relays {
		way := newWay(o.File, to, proxy, newCarrierMemory(dir, o.Logger).of(to), func() *tls.Config {
			return certs.PinnedConfig(key.Pin, []string{tunnel.ALPN}, nil)
		}, o.Logger)
		if link, err = way.Dial(ctx); err == nil {
			return link, i, nil
		}
		if failed = append(failed, err); len(relays) > 1 {
			o.Logger.Warn("this relay cannot be reached", append(attrs(err), "relay", hostPort(to))...)
		}
	}
	return nil, 0, failed[0]
}

// enrol trades the key for an identity.
func (o *Options) enrol(ctx context.Context, dir *stateDir, relays []tunnel.Endpoint, name string, key certs.Key) (*certs.Saved, *registration, tunnel.Carrier, error) {
	private, err := dir.enrolmentKey()
	if err != nil {
		return nil, nil, "", err
	}
	link, which, err := o.reach(ctx, dir, relays, key)
	if err != nil {
		return nil, nil, "", err
	}
	to, given := relays[which], o.given()[which]
	relay, carrier := peerOf(link), link.Carrier()
	o.Logger.Info("registering", "relay", hostPort(to), "carrier", carrier, "name", name)
	answer, err := tunnel.EnrolOver(ctx, link, private, tunnel.Enrol{Kind: tunnel.EnrolNode, GatewayID: key.GatewayID, Secret: key.Secret, Name: name}, o.Software)
	if err != nil {
		return nil, nil, "", sessionError(err)
	}
	saved := &certs.Saved{Key: private, Chain: answer.Chain, Roots: answer.Roots, Counter: answer.Counter}
	if err := checkEnrolled(saved, answer, relay, name, key.Pin); err != nil {
		return nil, nil, "", failure("enrolment-invalid", "registration", err, "use the same version at both ends", "the relay's answer cannot be used: %v", err)
	}
	reg := &registration{
		Version: registrationVersion, Identity: answer.Identity, Relay: to.Host,
		TLS: to.TLSPort, QUIC: answer.Ports.QUIC, HTTP: answer.Ports.HTTP, Registered: time.Now().UTC().Truncate(time.Second),
		Relays: tunnel.KnownRelays(answer.Relays, relay.TrustDomain),
	}
	// A port that worked, or that a person gave, is right from here; the others
	// are as the relay says.
	if carrier != tunnel.TLS && carrier != tunnel.WSS && given.TLS == 0 {
		reg.TLS = cmp.Or(answer.Ports.TLS, to.TLSPort)
	}
	if carrier == tunnel.QUIC || given.QUIC != 0 {
		reg.QUIC = to.QUICPort
	}
	if carrier == tunnel.WS || given.HTTP != 0 {
		reg.HTTP = to.HTTPPort
	}
	return saved, reg, carrier, nil
}

// peerOf is the identity at the other end of a link.
func peerOf(link tunnel.Link) certs.Identity {
	id, _ := certs.PeerIdentity(link.ConnectionState())
	return id
}

// checkEnrolled checks that the answer is what was asked for.
func checkEnrolled(saved *certs.Saved, answer *tunnel.Enrolled, relay certs.Identity, name string, pin certs.Pin) error {
	trust, err := saved.Trust()
	if err != nil {
		return err
	}
	id, err := savedIdentity(saved)
	switch {
	case err != nil:
		return err
	case id.Role != certs.RoleNode || id.Name != name || id.TrustDomain != relay.TrustDomain:
		return fmt.Errorf("it is a certificate of %s", id)
	case id.String() != answer.Identity:
		return fmt.Errorf("it is for %.200q, with a certificate of %s", answer.Identity, id)
	}
	for _, root := range trust.Roots {
		if certs.PinOf(root) == pin {
			return nil
		}
	}
	return errors.New("the CA that the key names is not among those to believe")
}

// saveNode writes a new node, all of it or nothing.
func (d *stateDir) saveNode(reg *registration, saved *certs.Saved) error {
	if err := certs.SaveIdentity(d.path, saved); err != nil {
		return err
	}
	if err := d.saveRegistration(reg); err != nil {
		_ = d.remove(certs.IdentityFile)
		_ = d.remove(fileRegistration)
		return err
	}
	return nil
}
