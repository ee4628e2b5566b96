package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// grantMargin is how long before its end a grant is not used any more: it
	// still has to reach the node.
	grantMargin = 5 * time.Second
	// grantRefresh is how long before its end a grant that is in use is
	// replaced in the background, so that dials need not wait for the relay.
	grantRefresh = 20 * time.Second
	// grantTime bounds one question to the relay.
	grantTime = 15 * time.Second
	// laneTime bounds the opening of one lane, with its handshakes.
	laneTime = 15 * time.Second
	// laneTokenLife is how long a lane token is worth trying.
	laneTokenLife = 8 * time.Second
	// retryFirst and retryMost are the pauses between attempts of one dial.
	retryFirst = 250 * time.Millisecond
	retryMost  = 2 * time.Second
	// maxTargets bounds how many targets one process dials.
	maxTargets = 1024
)

// broker is the session as the pool sees it.
type broker interface {
	// grant asks the relay for the permission to dial a target.
	grant(ctx context.Context, t Target) (*grant, error)
	// lane opens a lane to a node over the session; both ends are verified.
	lane(ctx context.Context, node, token string) (net.Conn, bundle.LaneInfo, error)
}

// errNoSession is a broker whose session went away; another one will come.
var errNoSession = errors.New("client: the session to the relay is lost")

// grant is the relay's permission to open streams to one store by one node.
type grant struct {
	text    string
	node    string    // identity of the node, as a URI
	fetched time.Time // by this machine's clock, like expires
	expires time.Time

	tokens []string // that open lanes; guarded by the pool's mu
}

// pool holds what makes a dial quick: grants that can be used again, and a
// bundle for each node with its lanes. All methods may be called from any
// goroutine until close.
type pool struct {
	// static after construction
	broker broker
	config bundle.Config
	logger *slog.Logger
	ctx    context.Context // the pool's life
	cancel context.CancelFunc
	tasks  sync.WaitGroup // refreshes

	mu sync.Mutex
	// guarded by mu
	grants  map[Target]*grantSlot
	bundles map[string]*bundleSlot // by node
	closed  bool
}

// grantSlot is the place of a target's grant. Who holds the turn may replace it.
type grantSlot struct {
	turn       chan struct{} // capacity 1
	current    *grant        // guarded by the pool's mu
	refreshing bool          // guarded by the pool's mu
}

// bundleSlot is the same for a node's bundle.
type bundleSlot struct {
	turn    chan struct{}
	current *bundle.Bundle // guarded by the pool's mu
}

func newPool(b broker, cfg bundle.Config, logger *slog.Logger) *pool {
	p := &pool{
		broker: b, config: cfg, logger: logger,
		grants:  make(map[Target]*grantSlot),
		bundles: make(map[string]*bundleSlot),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// open opens a stream to a target. It goes on trying while ctx lasts and the
// reason may pass: no node online, a node or a session that has just gone.
func (p *pool) open(ctx context.Context, t Target) (*bundle.Stream, error) {
	var spent *grant // the one that the node refused
	renewals := 0
	pause := retryFirst
	for {
		g, err := p.grantFor(ctx, t, spent)
		if err == nil {
			var s *bundle.Stream
			if s, err = p.openWith(ctx, t, g); err == nil {
				return s, nil
			}
			if spendsGrant(err) {
				spent = g
				if renewals++; renewals == 1 {
					continue // at once: the grant had only grown old
				}
			}
		}
		if ctx.Err() != nil {
			return nil, timedOut(t, err)
		}
		if !passing(err) || renewals > 3 {
			return nil, err
		}
		p.logger.Debug("dial again", "target", t.String(), "after", pause, "error", err)
		timer := time.NewTimer(rand.N(pause) + pause/2)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, timedOut(t, err)
		case <-p.ctx.Done():
			timer.Stop()
			return nil, net.ErrClosed
		}
		pause = min(2*pause, retryMost)
	}
}

// check asks for a grant and prepares a lane, so that the first dial is quick.
// What may pass is no error.
func (p *pool) check(ctx context.Context, t Target) error {
	g, err := p.grantFor(ctx, t, nil)
	for err != nil && errors.Is(err, errNoSession) && ctx.Err() == nil {
		pause(ctx, retryFirst)
		g, err = p.grantFor(ctx, t, nil)
	}
	if err == nil {
		_, err = p.bundleFor(ctx, g)
	}
	if err != nil && ctx.Err() == nil && passing(err) {
		p.logger.Warn("the store cannot be dialled now", append([]any{"target", t.String()}, attributes(err)...)...)
		return nil
	}
	return err
}

// openWith opens a stream with one grant.
func (p *pool) openWith(ctx context.Context, t Target, g *grant) (*bundle.Stream, error) {
	b, err := p.bundleFor(ctx, g)
	if err != nil {
		return nil, err
	}
	s, err := b.Open(ctx, bundle.Request{UUID: uuid.New(), Grant: g.text})
	if r, ok := errors.AsType[*bundle.RefusedError](err); ok {
		return nil, refused(t, r)
	}
	if err != nil {
		return nil, fmt.Errorf("client: open %s: %w", t, err)
	}
	return s, nil
}

// spendsGrant says whether an error means that a grant is of no more use.
func spendsGrant(err error) bool {
	switch codeOf(err) {
	case "grant-expired", "grant-invalid", "node-busy", "node-draining", "node-stopped":
		return true
	}
	return errors.Is(err, errNoToken)
}

// passing says whether what failed may go better in a moment.
func passing(err error) bool {
	if spendsGrant(err) || errors.Is(err, errNoSession) {
		return true
	}
	switch codeOf(err) {
	case "no-node-online", "node-elsewhere", "node-offline", "relay-draining", "queue-timeout", "lane-token-unknown",
		"lanes-lost", "end-restarted", "unknown-bundle", "lane-refused", "lane-silent":
		return true
	}
	return false
}

// timedOut is a dial whose time is over; last is why it had not come about.
func timedOut(t Target, last error) error {
	if last == nil || errors.Is(last, context.Canceled) || errors.Is(last, context.DeadlineExceeded) && codeOf(last) == "" {
		return &Error{
			code: "dial-timeout", hop: "relay", message: t.String() + ": no answer in time", err: last,
			advice: "see whether the relay and a node of the gateway are online (ebbgate node list)",
		}
	}
	return last
}

// grantFor gives a grant that is good for some seconds and is not spent.
func (p *pool) grantFor(ctx context.Context, t Target, spent *grant) (*grant, error) {
	p.mu.Lock()
	slot := p.grants[t]
	if slot == nil {
		if len(p.grants) >= maxTargets {
			p.mu.Unlock()
			return nil, fmt.Errorf("client: more than %d targets", maxTargets)
		}
		slot = &grantSlot{turn: make(chan struct{}, 1)}
		p.grants[t] = slot
	}
	g := slot.usableLocked(spent)
	if g != nil && time.Until(g.expires) < grantRefresh && !slot.refreshing && !p.closed {
		slot.refreshing = true
		p.tasks.Go(func() { p.refresh(t, slot, g) })
	}
	p.mu.Unlock()
	if g != nil {
		return g, nil
	}
	return p.fetch(ctx, t, slot, spent)
}

// usableLocked gives the slot's grant where it is good, and not the spent one.
func (s *grantSlot) usableLocked(spent *grant) *grant {
	if s.current == nil || s.current == spent || time.Until(s.current.expires) < grantMargin {
		return nil
	}
	return s.current
}

// fetch asks the relay for a grant, once for all who wait for the same one.
func (p *pool) fetch(ctx context.Context, t Target, slot *grantSlot, spent *grant) (*grant, error) {
	select {
	case slot.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-slot.turn }()
	p.mu.Lock()
	g := slot.usableLocked(spent)
	p.mu.Unlock()
	if g != nil {
		return g, nil
	}
	ctx, cancel := context.WithTimeout(ctx, grantTime)
	defer cancel()
	g, err := p.broker.grant(ctx, t)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	slot.current = g
	return g, nil
}

// refresh replaces a grant that is about to end. Where that fails, the next dial
// will ask and tell.
func (p *pool) refresh(t Target, slot *grantSlot, old *grant) {
	if _, err := p.fetch(p.ctx, t, slot, old); err != nil {
		p.logger.Debug("grant not refreshed", "target", t.String(), "error", err)
	}
	p.mu.Lock()
	slot.refreshing = false
	p.mu.Unlock()
}

// errNoToken is a grant without a token that could open a lane.
var errNoToken = errors.New("client: the grant has no lane token left")

// bundleFor gives the bundle to a grant's node, with at least one lane.
func (p *pool) bundleFor(ctx context.Context, g *grant) (*bundle.Bundle, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, net.ErrClosed
	}
	slot := p.bundles[g.node]
	if slot == nil {
		slot = &bundleSlot{turn: make(chan struct{}, 1)}
		p.bundles[g.node] = slot
	}
	b := slot.current
	p.mu.Unlock()
	if usable(b) {
		return b, nil
	}
	select {
	case slot.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-slot.turn }()

	p.mu.Lock()
	b = slot.current
	token := ""
	if !usable(b) {
		token = g.tokenLocked()
	}
	p.mu.Unlock()
	switch {
	case usable(b):
		return b, nil
	case token == "":
		return nil, errNoToken
	}
	if b == nil || b.Err() != nil {
		b = bundle.NewIngress(p.config)
	}
	if err := p.addLane(ctx, b, g.node, token); err != nil {
		return nil, err
	}
	return b, p.keep(slot, b)
}

// keep makes b the slot's bundle, unless the pool was closed meanwhile.
func (p *pool) keep(slot *bundleSlot, b *bundle.Bundle) error {
	p.mu.Lock()
	closed := p.closed
	if old := slot.current; !closed && old != b {
		slot.current = b
		if old != nil { // over, but perhaps not all of it is gone
			p.tasks.Go(func() { old.Close(bundle.CodeIngressStopped) })
		}
	}
	p.mu.Unlock()
	if closed {
		b.Close(bundle.CodeIngressStopped)
		return net.ErrClosed
	}
	return nil
}

func (p *pool) addLane(ctx context.Context, b *bundle.Bundle, node, token string) error {
	ctx, cancel := context.WithTimeout(ctx, laneTime)
	defer cancel()
	conn, info, err := p.broker.lane(ctx, node, token)
	if err != nil {
		return err
	}
	if err := b.Join(ctx, conn, info); err != nil {
		return fmt.Errorf("client: lane to %s: %w", node, err)
	}
	return nil
}

// tokenLocked takes a lane token that is young enough; "" where there is none.
func (g *grant) tokenLocked() string {
	if len(g.tokens) == 0 || time.Since(g.fetched) > laneTokenLife {
		return ""
	}
	token := g.tokens[0]
	g.tokens = g.tokens[1:]
	return token
}

func usable(b *bundle.Bundle) bool { return b != nil && b.Err() == nil && b.Lanes() > 0 }

// close ends every bundle, and with it every stream, and waits for all that the
// pool started.
func (p *pool) close(reason bundle.Code) {
	p.mu.Lock()
	p.closed = true
	var open []*bundle.Bundle
	for _, slot := range p.bundles {
		if slot.current != nil {
			open = append(open, slot.current)
		}
	}
	p.mu.Unlock()
	p.cancel()
	for _, b := range open {
		p.tasks.Go(func() { b.Close(reason) })
	}
	p.tasks.Wait()
}
