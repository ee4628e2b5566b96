package relay

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

// publicLife is how long the public certificate of the relay's own CA is valid.
const publicLife = 90 * 24 * time.Hour

// Lives are how long certificates are valid; they are renewed at about half of
// it. 0: as long as Default says.
type Lives struct{ Relay, Node, Job time.Duration }

// DefaultLives are those where nothing else is said.
var DefaultLives = Lives{Relay: 24 * time.Hour, Node: 24 * time.Hour, Job: time.Hour}

func (l Lives) withDefaults() Lives {
	return Lives{cmp.Or(l.Relay, DefaultLives.Relay), cmp.Or(l.Node, DefaultLives.Node), cmp.Or(l.Job, DefaultLives.Job)}
}

// identity is who the relay is: the CA's newest generation, the relay's own
// certificate, which it renews by itself, and the public certificate.
type identity struct {
	// static after construction
	name   certs.Identity
	ca     *certs.Authority
	trust  *certs.Trust
	holder *certs.Holder
	log    *slog.Logger
	host   string
	lives  Lives

	mu sync.Mutex
	// guarded by mu
	files  config.RelayTLS // of the public certificate
	grants *grant.Signer
	public *tls.Certificate
	expiry time.Time
}

// newIdentity makes the relay's certificate from the state's CA.
func newIdentity(name certs.Identity, s *state.State, file *config.Relay, lives Lives, log *slog.Logger) (*identity, error) {
	authorities := s.Authorities()
	i := &identity{
		name: name, ca: authorities[len(authorities)-1], holder: new(certs.Holder), log: log,
		host:  file.Hostname,
		lives: lives.withDefaults(),
		trust: &certs.Trust{TrustDomain: s.Instance()},
	}
	for _, a := range authorities {
		i.trust.Roots = append(i.trust.Roots, a.Certificate())
	}
	if err := i.issue(time.Now()); err != nil {
		return nil, err
	}
	public, err := i.load(file.TLS, time.Now())
	if err != nil {
		return nil, err
	}
	i.usePublic(file.TLS, public)
	return i, nil
}

// issue makes a fresh key and certificate and uses them from now on.
func (i *identity) issue(now time.Time) error {
	key, err := certs.GenerateKey()
	if err != nil {
		return fmt.Errorf("relay: identity: %w", err)
	}
	der, err := i.ca.Issue(i.name, key.Public(), now, i.lives.Relay)
	if err != nil {
		return fmt.Errorf("relay: identity: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("relay: identity: %w", err)
	}
	chain := [][]byte{der, i.ca.Certificate().Raw}
	signer, err := grant.NewSigner(key, chain)
	if err != nil {
		return fmt.Errorf("relay: identity: %w", err)
	}
	i.holder.Set(&tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf})
	i.mu.Lock()
	defer i.mu.Unlock()
	i.grants, i.expiry = signer, leaf.NotAfter
	return nil
}

// load makes the certificate that anybody but connectors and clients is shown:
// from the files, else from the relay's own CA.
func (i *identity) load(files config.RelayTLS, now time.Time) (*tls.Certificate, error) {
	if files.Cert == "" {
		return i.ca.IssuePublic([]string{i.host}, now, publicLife)
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, failure("certificate-invalid", "config", "tls.cert and tls.key name the PEM files of the public certificate and of its key", "tls: %v", err)
	}
	switch {
	case now.After(pair.Leaf.NotAfter):
		i.log.Warn("the public certificate has expired", "file", files.Cert, "expired", pair.Leaf.NotAfter)
	case pair.Leaf.VerifyHostname(i.host) != nil:
		i.log.Warn("the public certificate is not for the relay's hostname", "file", files.Cert, "hostname", i.host, "names", pair.Leaf.DNSNames)
	}
	return &pair, nil
}

// usePublic shows another public certificate from now on. false: it is the one
// that is shown already, or like it made by the relay's own CA.
func (i *identity) usePublic(files config.RelayTLS, c *tls.Certificate) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	same := i.public != nil && i.files == files &&
		(files.Cert == "" || slices.EqualFunc(i.public.Certificate, c.Certificate, bytes.Equal))
	if same && files.Cert == "" {
		return false
	}
	i.files, i.public = files, c
	return !same
}

// renewPublic makes a new public certificate where the relay's own CA makes it.
func (i *identity) renewPublic(now time.Time) error {
	i.mu.Lock()
	own := i.files.Cert == ""
	i.mu.Unlock()
	if !own {
		return nil
	}
	c, err := i.ca.IssuePublic([]string{i.host}, now, publicLife)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.files.Cert == "" {
		i.public = c
	}
	return nil
}

// renew replaces the relay's certificate at half its life, until ctx ends, and
// tells of it.
func (i *identity) renew(ctx context.Context, renewed func()) error {
	timer := time.NewTimer(i.lives.Relay / 2)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		timer.Reset(i.lives.Relay / 2)
		if err := errors.Join(i.issue(time.Now()), i.renewPublic(time.Now())); err != nil {
			i.log.Error("the relay's certificate was not renewed", "error", err)
			timer.Reset(time.Minute)
			continue
		}
		renewed()
	}
}

func (i *identity) signer() *grant.Signer {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.grants
}

func (i *identity) pin() certs.Pin { return i.ca.Pin() }

// roots are the CA generations that nodes and clients are to believe.
func (i *identity) roots() (list [][]byte) {
	for _, c := range i.trust.Roots {
		list = append(list, c.Raw)
	}
	return list
}

// sessionConfig is TLS for connectors and clients: the relay's own identity; a
// certificate is asked for, and verified where one is given.
func (i *identity) sessionConfig() *tls.Config {
	return certs.ServerConfig(i.holder, func() *certs.Trust { return i.trust }, certs.ServerOptions{ALPN: []string{tunnel.ALPN}})
}

// laneConfig is TLS for a node's direct lane to an ingress of the relay.
func (i *identity) laneConfig(node certs.Identity) *tls.Config {
	return certs.ServerConfig(i.holder, func() *certs.Trust { return i.trust }, certs.ServerOptions{
		ALPN: []string{tunnel.ALPNLane}, RequireClient: true,
		Accept: func(id certs.Identity) error {
			if id != node {
				return fmt.Errorf("relay: the lane is of %s, not of %s", id, node)
			}
			return nil
		},
	})
}

// publicConfig is TLS for everybody else.
func (i *identity) publicConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			i.mu.Lock()
			defer i.mu.Unlock()
			return i.public, nil
		},
	}
}
