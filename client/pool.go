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
	// retryFirst and retryMost are the pauses between attempts of one dial.
	retryFirst = 250 * time.Millisecond
	retryMost  = 2 * time.Second
	// maxInvalid bounds how many grants in a row a node may refuse.
	maxInvalid = 2
	// maxTargets bounds how many targets one process dials.
	maxTargets = 1024
)

// broker is the sessions as the pool sees them: with as many relays as have a
// place, which are numbers here.
type broker interface {
	// grant asks the relays for the permission to dial a target, best by a node
	// that is known already (or ""), with tokens for so many lanes.
	grant(ctx context.Context, t Target, node string, lanes int) (*grant, error)
	// up tells whether there is a session with a relay.
	up(via int) bool
	// direct tells whether direct lanes through a relay are worth trying now.
	direct(via int) bool
	// laneTokens asks a relay for tokens for so many lanes to a node that there is a
	// bundle with.
	laneTokens(ctx context.Context, via int, node string, n int) ([]string, error)
	// lane opens a lane of a class to a node, with a token of that relay; both ends
	// are verified.
	lane(ctx context.Context, via int, node, token string, class int) (net.Conn, bundle.LaneInfo, error)
}

// errNoSession is a broker whose session went away; another one will come.
var errNoSession = errors.New("client: no session to the relay")

// Stream is an open stream to a store.
type Stream struct {
	*bundle.Stream
	Target Target // GATEWAY/STORE, whatever it was dialled as

	node  string // identity
	ended func(*Stream, bundle.Report)
}

// Carry is the bundle's, and has the relay told how the stream ended.
func (s *Stream) Carry(sock bundle.Socket, prefix []byte) bundle.Report {
	report := s.Stream.Carry(sock, prefix)
	if s.ended != nil {
		s.ended(s, report)
	}
	return report
}

// grant is the relay's permission to open streams to one store by one node.
type grant struct {
	target  Target // as GATEWAY and STORE
	text    string
	node    string    // identity of the node, as a URI
	via     int       // the relay that gave it, for its tokens
	fetched time.Time // by this machine's clock, like expires
	expires time.Time

	// guarded by the pool's mu
	tokens    []string // that open lanes
	unwelcome bool     // the node takes no streams now: ask for another one
}

// pool holds what makes a dial quick: grants that can be used again, and a
// bundle for each node with its lanes. All methods may be called from any
// goroutine until close.
type pool struct {
	// static after construction
	broker broker
	config bundle.Config
	logger *slog.Logger
	ended  func(*Stream, bundle.Report) // is told the end of each stream; nil: nobody is
	ctx    context.Context              // the pool's life
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
func (p *pool) open(ctx context.Context, t Target) (*Stream, error) {
	var spent *grant // one that is of no more use
	pause := retryFirst
	for spends, invalid := 0, 0; ; {
		g, err := p.grantFor(ctx, t, spent)
		if err == nil {
			var s *Stream
			if s, err = p.openWith(ctx, t, g); err == nil {
				return s, nil
			}
			if spendsGrant(err) {
				p.spend(g, err)
				spent = g
				if spends++; spends == 1 {
					continue // at once: the grant had only grown old
				}
			}
		}
		if code := codeOf(err); code == "grant-invalid" || code == "grant-expired" {
			invalid++
		}
		if ctx.Err() != nil {
			return nil, timedOut(t, err)
		}
		if !passing(err) || invalid > maxInvalid {
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
func (p *pool) openWith(ctx context.Context, t Target, g *grant) (*Stream, error) {
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
	return &Stream{Stream: s, Target: g.target, node: g.node, ended: p.ended}, nil
}

// spendsGrant says whether an error means that a grant is of no more use.
func spendsGrant(err error) bool {
	switch codeOf(err) {
	case "grant-expired", "grant-invalid", "node-busy", "node-draining", "node-stopped":
		return true
	}
	return errors.Is(err, errNoToken)
}

// spend notes why a grant is of no more use.
func (p *pool) spend(g *grant, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g.unwelcome = codeOf(err) == "node-draining" || codeOf(err) == "node-stopped" || codeOf(err) == "node-busy"
}

// passing says whether what failed may go better in a moment.
func passing(err error) bool {
	if spendsGrant(err) || errors.Is(err, errNoSession) {
		return true
	}
	switch codeOf(err) {
	case "no-node-online", "node-elsewhere", "node-offline", "relay-draining", "relay-silent", "relay-busy", "queue-timeout", "lane-lost",
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
	node, lanes := p.wantedLocked(slot.current, spent)
	p.mu.Unlock()
	if g != nil {
		return g, nil
	}
	ctx, cancel := context.WithTimeout(ctx, grantTime)
	defer cancel()
	g, err := p.broker.grant(ctx, t, node, lanes)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	slot.current = g
	return g, nil
}

// wantedLocked says by which node a target is best dialled now, and how many
// lanes to it are missing.
func (p *pool) wantedLocked(old, spent *grant) (node string, lanes int) {
	if old == nil {
		return "", len(strand{}.lanes)
	}
	slot := p.bundles[old.node]
	if slot == nil || !usable(slot.current) || spent != nil && spent.unwelcome {
		return "", len(strand{}.lanes)
	}
	missing := 0
	for _, st := range slot.strands {
		missing = max(missing, len(p.missingLocked(st)))
	}
	return old.node, missing
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
