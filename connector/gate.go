package connector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// gate decides about each stream and dials its store: the last word.
type gate struct {
	self     certs.Identity
	verifier *grant.Verifier
	find     func(name string) (config.Store, bool)
	dialer   *dialer
	looked   <-chan struct{}  // closed once the dialer's guards know their addresses
	now      func() time.Time // the relay's
	runs     *runs
	peers    atomic.Pointer[namedPeer]
	failed   func(error)        // is told why a store was not dialled
	refused  func(tunnel.Ended) // is told what a client was refused
	metrics  *metrics
	logger   *slog.Logger
}

// open is the bundle.OpenFunc of this node.
func (g *gate) open(ctx context.Context, peer string, req bundle.Request) (bundle.Socket, error) {
	start := time.Now()
	sock, gr, err := g.tryOpen(ctx, peer, req)
	outcome := "ok"
	if err != nil {
		refused := refusalOf(err)
		outcome, err = refused.Code(), refused
	}
	g.metrics.dials.WithLabelValues(outcome).Inc()
	g.metrics.dialSeconds.Observe(time.Since(start).Seconds())
	if g.logger.Enabled(ctx, slog.LevelDebug) {
		g.tell(peer, req, gr, sock, err, time.Since(start))
	}
	if err != nil {
		g.told(peer, req, gr, err)
		return nil, err
	}
	return sock, nil
}

// told has the refusal of a client's dial reported, of which its relay knows
// nothing; a relay knows of those at its own ingresses.
func (g *gate) told(peer string, req bundle.Request, gr grant.Grant, err error) {
	refused, ok := errors.AsType[*bundle.RefusedError](err)
	if id, err := g.identity(peer); !ok || gr.Job == "" || err != nil || id.Role != certs.RoleJob {
		return
	}
	g.refused(tunnel.Ended{
		Names: tunnel.Names{Ingress: peer, Node: g.self.String(), Store: gr.Store, Job: gr.Job, Run: gr.Run}, End: tunnel.RefusedAtNode(req.UUID, refused.Reason),
	})
}

// tell logs what became of an OPEN.
func (g *gate) tell(peer string, req bundle.Request, gr grant.Grant, sock bundle.Socket, err error, took time.Duration) {
	log := g.logger.With("peer", peer, "job", gr.Job, "run", gr.Run, "store", gr.Store, "uuid", fmt.Sprintf("%x", req.UUID))
	if refused := (*bundle.RefusedError)(nil); errors.As(err, &refused) {
		log.Debug("dial refused", "code", refused.Code(), "reason", refused.Error())
		return
	}
	log.Debug("store dialled", "address", sock.RemoteAddr().String(), "ms", took.Milliseconds())
}

func (g *gate) tryOpen(ctx context.Context, peer string, req bundle.Request) (bundle.Socket, grant.Grant, error) {
	id, err := g.identity(peer)
	if err != nil {
		return nil, grant.Grant{}, err
	}
	gr, err := g.verifier.Verify(req.Grant, id, g.now())
	if err != nil {
		return nil, gr, err
	}
	st, err := g.store(gr, id)
	if err != nil {
		return nil, gr, err
	}
	key := streamKey{peer, req.UUID}
	if err := g.runs.enter(key, gr); err != nil {
		return nil, gr, err
	}
	g.awaitGuards(ctx)
	sock, err := g.dialer.dial(ctx, st)
	if err != nil {
		g.runs.leave(key)
		if own := (*Error)(nil); errors.As(err, &own) {
			g.failed(own)
		}
		return nil, gr, err
	}
	return sock, gr, nil // running.ended counts it out
}

// namedPeer is the identity that a name stands for.
type namedPeer struct {
	name string
	id   certs.Identity
}

// identity parses a peer's name; mostly it is that of the last stream.
func (g *gate) identity(peer string) (certs.Identity, error) {
	if last := g.peers.Load(); last != nil && last.name == peer {
		return last.id, nil
	}
	id, err := certs.ParseIdentity(peer)
	if err == nil {
		g.peers.Store(&namedPeer{peer, id})
	}
	return id, err
}

// awaitGuards waits, in the first moments of a process, until the guards know
// their addresses. DNS that does not answer is no reason to serve nobody.
func (g *gate) awaitGuards(ctx context.Context) {
	select {
	case <-g.looked:
		return
	default:
	}
	timer := time.NewTimer(watchPatience)
	defer timer.Stop()
	select {
	case <-g.looked:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// store finds the store and checks that it serves this job at this ingress.
func (g *gate) store(gr grant.Grant, peer certs.Identity) (config.Store, error) {
	st, ok := g.find(gr.Store)
	kind := config.IngressClient
	if peer.Role == certs.RoleRelay {
		kind = config.IngressRelay
	}
	switch {
	case !ok:
		return st, &bundle.RefusedError{Reason: bundle.CodeStoreUnknown, Text: fmt.Sprintf("node %s has no store %s in its configuration", g.self.Name, gr.Store)}
	case len(st.Jobs) > 0 && !slices.Contains(st.Jobs, gr.Job):
		return st, &bundle.RefusedError{Reason: bundle.CodeStoreNotAllowed, Text: fmt.Sprintf("store %s does not serve job %s on node %s", st.Name, gr.Job, g.self.Name)}
	case len(st.Ingress) > 0 && !slices.Contains(st.Ingress, kind):
		return st, &bundle.RefusedError{Reason: bundle.CodeStoreNotAllowed, Text: fmt.Sprintf("store %s does not serve jobs that come in by a %s on node %s", st.Name, kind, g.self.Name)}
	}
	return st, nil
}

// wireCodes are the errors of dials as the ingress learns them.
var wireCodes = map[string]bundle.Code{
	codeUnresolved:  bundle.CodeStoreUnresolved,
	codeRefused:     bundle.CodeStoreRefused,
	codeTimeout:     bundle.CodeStoreTimeout,
	codeUnreachable: bundle.CodeStoreUnreachable,
	codeAddress:     bundle.CodeAddressRefused,
	codeBusy:        bundle.CodeNodeBusy,
}

// maxRefusal bounds what an ingress is told, in bytes.
const maxRefusal = 1000

// refusalOf is an error as the ingress learns it. What is not meant for it stays
// in the node's log.
func refusalOf(err error) *bundle.RefusedError {
	var refused *bundle.RefusedError
	var own *Error
	var bad *grant.Error
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &own) && wireCodes[own.code] != 0:
		return &bundle.RefusedError{Reason: wireCodes[own.code], Text: own.message[:min(len(own.message), maxRefusal)]}
	case errors.As(err, &bad) && bad.Expired:
		return &bundle.RefusedError{Reason: bundle.CodeGrantExpired, Text: "the grant: " + bad.Reason}
	case errors.As(err, &bad):
		return &bundle.RefusedError{Reason: bundle.CodeGrantInvalid, Text: "the grant: " + bad.Reason}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &bundle.RefusedError{Reason: bundle.CodeCancelled}
	}
	return &bundle.RefusedError{Reason: bundle.CodeInternal, Text: "the node could not dial the store"}
}
