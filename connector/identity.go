package connector

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// identity is who this node is, and what it believes. Its methods may be called
// from any goroutine.
type identity struct {
	// static after construction
	name   certs.Identity
	text   string // name as others read it
	holder *certs.Holder
	clock  *tunnel.Clock

	mu sync.Mutex
	// guarded by mu
	saved   *certs.Saved
	trusted *certs.Trust
	unsaved bool      // saved is newer than what is on disk
	renewAt time.Time // by the relay's clock
}

func newIdentity(saved *certs.Saved, clock *tunnel.Clock) (*identity, error) {
	name, err := savedIdentity(saved)
	if err != nil {
		return nil, err
	}
	i := &identity{name: name, text: name.String(), holder: new(certs.Holder), clock: clock}
	if err := i.use(saved); err != nil {
		return nil, err
	}
	i.unsaved = false
	return i, nil
}

// use uses a certificate from now on. It has to be saved, too.
func (i *identity) use(saved *certs.Saved) error {
	certificate, err := saved.Certificate()
	if err != nil {
		return err
	}
	trusted, err := saved.Trust()
	if err != nil {
		return err
	}
	name, err := certs.CertificateIdentity(certificate.Leaf)
	if err != nil {
		return err
	}
	if name != i.name {
		return fmt.Errorf("connector: the relay gave a certificate of %s to %s", name, i.name)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.saved, i.trusted, i.unsaved = saved, trusted, true
	i.renewAt = renewalTime(certificate.Leaf.NotBefore, certificate.Leaf.NotAfter)
	i.holder.Set(certificate)
	return nil
}

// backdated is how long before it was issued a certificate began.
const backdated = 15 * time.Minute

// renewalTime is half a certificate's life, give or take a tenth.
func renewalTime(from, until time.Time) time.Time {
	issued := from.Add(backdated)
	if !issued.Before(until) {
		issued = from
	}
	life := max(until.Sub(issued), 0)
	return issued.Add(life*4/10 + rand.N(life*2/10+1))
}

// current is what is used now, and whether it still has to be saved.
func (i *identity) current() (saved *certs.Saved, unsaved bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.saved, i.unsaved
}

// wasSaved is told what is on disk now.
func (i *identity) wasSaved(saved *certs.Saved) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.saved == saved {
		i.unsaved = false
	}
}

// dueAt is when the certificate should be renewed.
func (i *identity) dueAt() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.renewAt
}

// trust is what the node believes now.
func (i *identity) trust() *certs.Trust {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.trusted
}

// expires is the end of the certificate that is used.
func (i *identity) expires() time.Time { return i.holder.Certificate().Leaf.NotAfter }

// expired tells whether the relay would not take the certificate any more.
func (i *identity) expired() bool { return !i.clock.Latest().Before(i.expires()) }

// acceptRelay accepts relays as the other end of a session.
func acceptRelay(id certs.Identity) error {
	if id.Role != certs.RoleRelay {
		return fmt.Errorf("connector: %s is not a relay", id)
	}
	return nil
}

// sessionTLS is TLS to a relay.
func (i *identity) sessionTLS() *tls.Config {
	return certs.ClientConfig(i.holder, i.trust, acceptRelay, []string{tunnel.ALPN})
}

// returnTLS is the same for a node whose certificate is not good any more.
func (i *identity) returnTLS() *tls.Config {
	return certs.ClientConfig(nil, i.trust, acceptRelay, []string{tunnel.ALPN})
}

// laneTLS is TLS to the client's ingress that a lane is for.
func (i *identity) laneTLS(ingress certs.Identity) *tls.Config {
	return certs.ClientConfig(i.holder, i.trust, func(id certs.Identity) error {
		if id != ingress {
			return &certs.VerifyError{Err: fmt.Errorf("the lane's other end is %s, not %s", id, ingress)}
		}
		return nil
	}, []string{tunnel.ALPNLane})
}
