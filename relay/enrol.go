package relay

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

// enrol answers a newcomer: a node with a gateway's key, a node that comes back
// with its registered key, or a job with its token. Whatever it asks for, it
// gets a certificate for the public key that it proved to hold on this very
// connection, under the name that the relay's records give.
func (r *Relay) enrol(ctx context.Context, s *tunnel.Session, req tunnel.Enrol) (*tunnel.Enrolled, error) {
	answer, err := r.tryEnrol(ctx, s, req)
	count(r.metrics.enrolments, err)
	if err != nil {
		r.log.Warn("enrolment refused", "kind", req.Kind, "from", s.Link().RemoteAddr().String(), "name", req.Name, "error", err)
		return nil, err
	}
	r.log.Info("enrolled", "identity", answer.Identity, "from", s.Link().RemoteAddr().String())
	return answer, nil
}

func (r *Relay) tryEnrol(ctx context.Context, s *tunnel.Session, req tunnel.Enrol) (*tunnel.Enrolled, error) {
	if !r.enrolling.allow(hostOf(s.Link().RemoteAddr()), time.Now()) {
		return nil, failure("enrolments-too-many", "relay", "try again in a few seconds", "too many registrations at once, from this address or in all")
	}
	pub, err := r.possession(s, req.CSR, req.Proof)
	if err != nil {
		return nil, err
	}
	switch req.Kind {
	case tunnel.EnrolNode:
		return r.enrolNode(ctx, req, pub)
	case tunnel.EnrolReturn:
		return r.enrolReturn(ctx, req, pub)
	case tunnel.EnrolJob:
		return r.enrolJob(ctx, req, pub)
	}
	return nil, failure("enrolment-unknown", "registration", "use the same version at both ends", "the relay knows no enrolment %q", req.Kind)
}

// possession takes the public key out of a CSR, and nothing else, and checks
// that the peer holds its private key.
func (r *Relay) possession(s *tunnel.Session, csr, proof []byte) ([]byte, error) {
	pub, err := certs.CheckCSR(csr)
	if err != nil {
		return nil, failure("csr-invalid", "registration", "use the same version at both ends", "the certificate request: %v", err)
	}
	exporter, err := s.EnrolExporter()
	if err != nil {
		return nil, fmt.Errorf("relay: enrol: %w", err)
	}
	if err := certs.CheckProof(pub, exporter, proof); err != nil {
		return nil, failure("proof-invalid", "registration", "is something between this machine and the relay replaying connections?", "the proof of possession does not fit this connection")
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, failure("csr-invalid", "registration", "use the same version at both ends", "the certificate request's key: %v", err)
	}
	return der, nil
}

func (r *Relay) enrolNode(ctx context.Context, req tunnel.Enrol, pub []byte) (*tunnel.Enrolled, error) {
	gateway, err := known(ctx, r.state, func() (state.Gateway, error) {
		g, _, err := r.state.CheckKey(req.GatewayID, req.Secret)
		return g, err
	})
	if err != nil {
		return nil, failure("key-refused", "registration", "was the key regenerated? ebbgate gateway keys NAME shows the gateway's keys", "the authentication key is not one of this relay's")
	}
	n, err := r.state.RegisterNode(ctx, gateway.Tenant, gateway.Name, req.Name, pub)
	if errors.Is(err, state.ErrExists) {
		return nil, failure("node-exists", "registration", "choose another --name", "gateway %s has a node %s already", gateway.Name, req.Name)
	}
	if err != nil {
		return nil, err
	}
	return r.certify(nodeIdentity(r.state.Instance(), n), pub, r.self.lives.Node, n.Counter)
}

func (r *Relay) enrolReturn(ctx context.Context, req tunnel.Enrol, pub []byte) (*tunnel.Enrolled, error) {
	refused := failure("node-unknown", "registration", "register the machine again: remove its state directory and run ebbgate connector register", "the relay has no node with this identity and key")
	id, err := certs.ParseIdentity(req.Identity)
	if err != nil || id.Role != certs.RoleNode || id.TrustDomain != r.state.Instance() {
		return nil, refused
	}
	n, err := known(ctx, r.state, func() (state.Node, error) {
		n, err := r.state.Node(id.Tenant, id.Gateway, id.Name)
		if err == nil && !bytes.Equal(n.PublicKey, pub) && !bytes.Equal(n.PreviousKey, pub) {
			err = refused
		}
		return n, err
	})
	if err != nil {
		return nil, refused
	}
	return r.certify(id, pub, r.self.lives.Node, n.Counter)
}

func (r *Relay) enrolJob(ctx context.Context, req tunnel.Enrol, pub []byte) (*tunnel.Enrolled, error) {
	job, err := known(ctx, r.state, func() (state.Job, error) { return r.state.CheckToken(req.JobID, req.Secret) })
	if err != nil {
		return nil, failure("token-invalid", "registration", "has the job been revoked? Create a new one with ebbgate job create", "the job token is not valid")
	}
	id := certs.Identity{TrustDomain: r.state.Instance(), Role: certs.RoleJob, Tenant: job.Tenant, Name: job.Name}
	return r.certify(id, pub, r.self.lives.Job, 0)
}

func nodeIdentity(domain string, n state.Node) certs.Identity {
	return certs.Identity{TrustDomain: domain, Role: certs.RoleNode, Tenant: n.Tenant, Gateway: n.Gateway, Name: n.Name}
}

// certify issues a certificate and says what goes with it.
func (r *Relay) certify(id certs.Identity, pub []byte, life time.Duration, counter int) (*tunnel.Enrolled, error) {
	key, err := x509.ParsePKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("relay: certify: %w", err)
	}
	der, err := r.self.ca.Issue(id, key, time.Now(), life)
	if err != nil {
		return nil, fmt.Errorf("relay: certify: %w", err)
	}
	return &tunnel.Enrolled{
		Identity: id.String(), Chain: [][]byte{der, r.self.ca.Certificate().Raw}, Roots: r.self.roots(),
		Ports: r.ports(), Host: r.cfg.File.Hostname, Counter: counter, Relays: r.peers.infos(),
	}, nil
}

// renew gives a node that is here a new certificate for a new key.
func (r *Relay) renew(ctx context.Context, s *tunnel.Session, n *node, req tunnel.RenewCert) (*tunnel.RenewedCert, error) {
	pub, err := r.possession(s, req.CSR, req.Proof)
	if err != nil {
		return nil, err
	}
	record, err := r.state.RenewNode(ctx, n.key.tenant, n.key.gateway, n.key.node, req.Counter, pub)
	if err != nil {
		return nil, err
	}
	answer, err := r.certify(n.identity, pub, r.self.lives.Node, record.Counter)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.expires = time.Now().Add(r.self.lives.Node)
	n.mu.Unlock()
	r.log.Info("certificate renewed", "node", n.identity.String(), "counter", record.Counter)
	return &tunnel.RenewedCert{Chain: answer.Chain, Roots: answer.Roots, Counter: record.Counter}, nil
}
