package connector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// handle answers the relay's messages.
func (r *running) handle(ctx context.Context, s *tunnel.Session, typ string, body json.RawMessage) (any, error) {
	switch typ {
	case tunnel.TypeDrain:
		r.logger.Info("the relay stops")
		return nil, nil
	case tunnel.TypeRelays:
		var m tunnel.Relays
		if err := json.Unmarshal(body, &m); err != nil {
			return nil, tunnel.Errorf("message-malformed", "node", "use the same version at both ends", "%s: %v", typ, err)
		}
		r.learn(s)
		return nil, nil
	case tunnel.TypeStoreTest:
		return r.testStore(ctx, body)
	case tunnel.TypeOpenLane:
		var m tunnel.OpenLane
		if err := json.Unmarshal(body, &m); err != nil {
			return nil, tunnel.Errorf("message-malformed", "node", "use the same version at both ends", "%s: %v", typ, err)
		}
		return nil, r.openLane(ctx, s, m)
	case tunnel.TypeRevoked:
		var m tunnel.Revoked
		if err := json.Unmarshal(body, &m); err != nil {
			return nil, tunnel.Errorf("message-malformed", "node", "use the same version at both ends", "%s: %v", typ, err)
		}
		if !certs.ValidName(m.Job) {
			return nil, tunnel.Errorf("message-malformed", "node", "use the same version at both ends", "%s: %.80q is no job", typ, m.Job)
		}
		r.revoke(m.Job)
		return nil, nil
	}
	return nil, tunnel.Errorf("message-unknown", "node", "use the same version at both ends", "a node knows no message %.40q", typ)
}

// revoke ends a job's streams, and voids the grants that it has.
func (r *running) revoke(job string) {
	r.logger.Info("job revoked", "job", job)
	r.gate.runs.revoke(job, r.clock.Now())
	r.node.Reset(bundle.CodeRevoked, func(peer string, req bundle.Request) bool {
		return r.gate.runs.of(job, streamKey{peer, req.UUID})
	})
}

// lane serves a session lane until it is over.
func (r *running) lane(ctx context.Context, s *tunnel.Session, join tunnel.Join, stream tunnel.Stream) {
	err := r.serveLane(ctx, s, join, stream)
	ingress := join.Ingress[:min(len(join.Ingress), maxLogged)]
	if foreign := (*certs.VerifyError)(nil); errors.As(err, &foreign) {
		r.logger.Warn("lane refused", append(attrs(unverified(ingress, foreign)), "ingress", ingress)...)
	} else if err != nil {
		r.logger.Debug("lane over", "ingress", ingress, "error", err)
	}
}

// maxLogged bounds what a log repeats of a peer's text, in bytes.
const maxLogged = 200

// unverified is a client that is not who the relay says.
func unverified(ingress string, err error) *Error {
	return failure("ingress-unverified", "relay", err, "see who is between the node and the job: the relay may not be what it seems",
		"what opens a lane as %q is not that: %v", ingress, err)
}

// serveLane finds out who is at the lane's other end. The preamble is only a
// claim: an ingress in the relay is the session's own peer, any other one proves
// itself in a TLS handshake inside the stream.
func (r *running) serveLane(ctx context.Context, s *tunnel.Session, join tunnel.Join, stream tunnel.Stream) error {
	refuse := func(format string, args ...any) error {
		_ = stream.Close()
		return fmt.Errorf("connector: lane refused: "+format, args...)
	}
	ingress, err := certs.ParseIdentity(join.Ingress)
	if err != nil {
		return refuse("%w", err)
	}
	if join.Node != r.id.name.String() {
		return refuse("it is for %.200q", join.Node)
	}
	peer, known := s.Peer()
	info := bundle.LaneInfo{
		Carrier: string(s.Link().Carrier()), Local: r.id.name.String(), Peer: ingress.String(), Express: join.Express,
		Way: peer.String(), Over: s.Link(),
	}
	switch ingress.Role {
	case certs.RoleRelay:
		if !known || peer != ingress {
			return refuse("it is of %s, but the session is with %s", ingress, peer)
		}
		if info.Exporter, err = s.LaneExporter(stream); err != nil {
			return refuse("%w", err)
		}
		return r.node.Serve(ctx, stream, info)
	case certs.RoleJob:
		if ingress.TrustDomain != r.id.name.TrustDomain || ingress.Tenant != r.id.name.Tenant {
			return refuse("%s is a stranger", ingress)
		}
		lane, err := tunnel.DialLane(ctx, stream, r.id.laneTLS(ingress))
		if err != nil {
			return err
		}
		if info.Exporter, err = lane.Exporter(); err != nil {
			_ = lane.Close()
			return err
		}
		info.Worn = lane.Worn
		return r.node.Serve(ctx, lane, info)
	}
	return refuse("%s is no ingress", ingress)
}
