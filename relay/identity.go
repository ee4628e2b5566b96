package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

// Lives of certificates.
const (
	relayLife  = 24 * time.Hour
	nodeLife   = 24 * time.Hour
	jobLife    = time.Hour
	publicLife = 90 * 24 * time.Hour
)

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
	files  config.RelayTLS

	mu sync.Mutex
	// guarded by mu
	grants *grant.Signer
	public *tls.Certificate
	expiry time.Time
}

// newIdentity makes the relay's certificate from the state's CA.
func newIdentity(name certs.Identity, s *state.State, file *config.Relay, log *slog.Logger) (*identity, error) {
	authorities := s.Authorities()
	i := &identity{
		name: name, ca: authorities[len(authorities)-1], holder: new(certs.Holder), log: log,
		host: file.Hostname, files: file.TLS,
		trust: &certs.Trust{TrustDomain: s.Instance()},
	}
	for _, a := range authorities {
		i.trust.Roots = append(i.trust.Roots, a.Certificate())
	}
	if err := i.issue(time.Now()); err != nil {
		return nil, err
	}
	return i, nil
}

// issue makes a fresh key and certificate and uses them from now on.
func (i *identity) issue(now time.Time) error {
	key, err := certs.GenerateKey()
	if err != nil {
		return fmt.Errorf("relay: identity: %w", err)
	}
	der, err := i.ca.Issue(i.name, key.Public(), now, relayLife)
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
	public, err := i.publicCertificate(now)
	if err != nil {
		return err
	}
	i.holder.Set(&tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf})
	i.mu.Lock()
	defer i.mu.Unlock()
	i.grants, i.public, i.expiry = signer, public, leaf.NotAfter
	return nil
}

// publicCertificate is what anybody but connectors and clients is shown: from
// the configured files, else from the relay's own CA.
func (i *identity) publicCertificate(now time.Time) (*tls.Certificate, error) {
	if i.files.Cert == "" {
		return i.ca.IssuePublic([]string{i.host}, now, publicLife)
	}
	pair, err := tls.LoadX509KeyPair(i.files.Cert, i.files.Key)
	if err != nil {
		return nil, failure("certificate-invalid", "config", "tls.cert and tls.key name the PEM files of the public certificate and of its key", "tls: %v", err)
	}
	return &pair, nil
}

// renew replaces the relay's certificate at half its life, until ctx ends.
func (i *identity) renew(ctx context.Context) error {
	timer := time.NewTimer(relayLife / 2)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		timer.Reset(relayLife / 2)
		if err := i.issue(time.Now()); err != nil {
			i.log.Error("the relay's certificate was not renewed", "error", err)
			timer.Reset(time.Minute)
		}
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
