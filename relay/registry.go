package relay

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// nodeKey names a node; tenants never share one.
type nodeKey struct{ tenant, gateway, node string }

func keyOf(id certs.Identity) nodeKey { return nodeKey{id.Tenant, id.Gateway, id.Name} }

// jobKey names a job.
type jobKey struct{ tenant, job string }

// registry knows which nodes and clients have a session now.
type registry struct {
	// opened is told each bundle of the relay's own ingresses and returns once it
	// is over; nil: nobody is. Static after construction.
	opened func(*node, *bundle.Bundle)
	// changed is told which node came, went or has another session now; nil: nobody
	// is. Static after construction.
	changed func(nodeKey)

	mu sync.Mutex
	// guarded by mu
	nodes   map[nodeKey]*node
	away    map[nodeKey]*node // without a session, with a bundle that waits for one
	left    map[nodeKey]departure
	waiting map[nodeKey]chan struct{} // closed when the node gets a session
	clients map[*tunnel.Session]certs.Identity
	all     map[*tunnel.Session]struct{}
	closed  bool

	ending sync.WaitGroup // bundles of nodes that are gone
}

// departure is when and why a node went.
type departure struct {
	at     time.Time
	reason string
}

func newRegistry() *registry {
	return &registry{
		nodes: make(map[nodeKey]*node), away: make(map[nodeKey]*node), left: make(map[nodeKey]departure),
		waiting: make(map[nodeKey]chan struct{}), clients: make(map[*tunnel.Session]certs.Identity), all: make(map[*tunnel.Session]struct{}),
	}
}

// enter counts a session in; false once the relay closes.
func (r *registry) enter(s *tunnel.Session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.all[s] = struct{}{}
	return true
}

func (r *registry) leave(s *tunnel.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, s)
	delete(r.clients, s)
}

// node is the node that is here under key, or nil.
func (r *registry) node(key nodeKey) *node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[key]
}

// await waits so long for a node that can be asked for lanes: it has a control
// session. nil: it did not come.
func (r *registry) await(ctx context.Context, key nodeKey, wait time.Duration) *node {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		r.mu.Lock()
		n, came := r.nodes[key], r.waiting[key]
		if n != nil && n.session(true) == nil {
			n = nil
		}
		if n == nil && came == nil && wait > 0 {
			came = make(chan struct{})
			r.waiting[key] = came
		}
		r.mu.Unlock()
		if n != nil || wait <= 0 {
			return n
		}
		select {
		case <-came:
		case <-ctx.Done():
			r.mu.Lock()
			if r.waiting[key] == came { // who still waits makes another one
				delete(r.waiting, key)
				close(came)
			}
			r.mu.Unlock()
			return nil
		}
	}
}

// gateway lists the nodes of a gateway that are here.
func (r *registry) gateway(tenant, gateway string) (list []*node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, n := range r.nodes {
		if key.tenant == tenant && key.gateway == gateway {
			list = append(list, n)
		}
	}
	return list
}

// displacePing is how long the old process of a node has to answer before a new
// one takes its place.
const displacePing = 3 * time.Second

// join adds a node's session. The first one of a process makes the node; a
// second process under the same identity is refused as long as the first
// answers.
func (r *registry) join(ctx context.Context, s *tunnel.Session, id certs.Identity, hello tunnel.Hello) (*node, error) {
	key := keyOf(id)
	for {
		n, old := r.tryJoin(s, key, id, hello)
		if len(old) == 0 {
			r.mark(key)
			return n, nil
		}
		if answers(ctx, old) {
			return nil, errIdentityInUse(key)
		}
		for _, session := range old {
			_ = session.Close("displaced")
			r.part(session, key, "displaced")
		}
	}
}

// answers pings sessions and tells whether any of them lives.
func answers(ctx context.Context, sessions []*tunnel.Session) bool {
	ctx, cancel := context.WithTimeout(ctx, displacePing)
	defer cancel()
	var live atomic.Bool
	var asking sync.WaitGroup
	for _, s := range sessions {
		asking.Go(func() {
			if _, err := s.Ping(ctx); err == nil {
				live.Store(true)
				cancel()
			}
		})
	}
	asking.Wait()
	return live.Load()
}

func errIdentityInUse(key nodeKey) error {
	return failure("identity-in-use", "node", "is the connector running twice with a copy of one state directory? Register the other machine under a name of its own",
		"another process is connected as node %s/%s and answers", key.gateway, key.node)
}

func (r *registry) mark(key nodeKey) {
	if r.changed != nil {
		r.changed(key)
	}
}

// tryJoin joins, or returns the sessions that have to be asked first.
func (r *registry) tryJoin(s *tunnel.Session, key nodeKey, id certs.Identity, hello tunnel.Hello) (n *node, old []*tunnel.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = r.nodes[key]
	if n != nil && n.incarnation != hello.Incarnation {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, session := range n.older {
			old = append(old, session.session)
		}
		for _, session := range []*tunnel.Session{n.control, n.bulk} {
			if session != nil {
				old = append(old, session)
			}
		}
		if len(old) > 0 {
			return nil, old
		}
		n = nil
	}
	if n == nil {
		n = r.enterLocked(key, id, hello.Incarnation)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.arriveLocked(s, hello.Role); hello.Role != tunnel.RoleBulk {
		n.hello = hello
		if came := r.waiting[key]; came != nil {
			delete(r.waiting, key)
			close(came)
		}
	}
	return n, nil
}

// enterLocked makes a node online: the one that was away, or, where another
// process comes back in its place, a new one.
func (r *registry) enterLocked(key nodeKey, id certs.Identity, incarnation string) *node {
	n := r.away[key]
	delete(r.away, key)
	if n != nil && n.incarnation != incarnation {
		own := n.own // nobody else holds a node that is away
		r.ending.Go(func() { own.End(bundle.CodeEndRestarted) })
		n = nil
	}
	if n == nil {
		n = &node{key: key, identity: id, incarnation: incarnation}
	}
	n.since = time.Now()
	r.nodes[key] = n
	delete(r.left, key)
	return n
}

// part takes a node's session out; with its last one the node is offline. Its
// streams wait for it as long as the grace of their bundle.
func (r *registry) part(s *tunnel.Session, key nodeKey, reason string) {
	defer r.mark(key)
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.nodes[key]
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.departLocked(s)
	if n.control == nil && n.bulk == nil {
		delete(r.nodes, key)
		r.left[key] = departure{time.Now(), reason}
		if n.own != nil {
			r.away[key] = n
			n.own.Orphan()
		}
	}
}

// ownBundle is the bundle of the relay's ingresses to the node; a new one where
// the last one is over.
func (r *registry) ownBundle(n *node, cfg bundle.Config) *bundle.Bundle {
	r.mu.Lock()
	defer r.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.own == nil || n.own.Err() != nil {
		own := bundle.NewIngress(cfg)
		n.own = own
		if r.closed { // nobody will come to end it
			own.End(bundle.CodeIngressStopped)
		}
		r.ending.Go(func() { r.outlive(n, own) })
		if r.opened != nil {
			r.ending.Go(func() { r.opened(n, own) })
		}
	}
	return n.own
}

// outlive waits for the end of a node's bundle: a node that is away is
// forgotten then.
func (r *registry) outlive(n *node, own *bundle.Bundle) {
	<-own.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away[n.key] == n && n.own == own {
		delete(r.away, n.key)
	}
}

// client remembers a client's session.
func (r *registry) client(s *tunnel.Session, id certs.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[s] = id
}

// clientsOf lists a job's sessions.
func (r *registry) clientsOf(job jobKey) (list []*tunnel.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s, id := range r.clients {
		if id.Tenant == job.tenant && id.Name == job.job {
			list = append(list, s)
		}
	}
	return list
}

// departed says when a node that is not here went.
func (r *registry) departed(key nodeKey) (departure, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.left[key]
	return d, ok
}

// streams is how many streams the relay's own ingresses have open.
func (r *registry) streams() (sum int) {
	for _, n := range r.withBundles() {
		if b := n.bundle(); b != nil {
			sum += b.Streams()
		}
	}
	return sum
}

func (r *registry) snapshot() (list []*node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nodes {
		list = append(list, n)
	}
	return list
}

// withBundles lists the nodes that are here, and those that are away and may
// come back to their streams.
func (r *registry) withBundles() (list []*node) {
	list = r.snapshot()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.away {
		list = append(list, n)
	}
	return list
}

func (r *registry) sessions() (list []*tunnel.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.all {
		list = append(list, s)
	}
	return list
}

// announceDrain tells every peer that the relay stops.
func (r *registry) announceDrain() {
	r.tell(tunnel.TypeDrain, tunnel.Drain{}, time.Second)
}

// tell sends a message to every peer, and waits no longer than it is told: one that
// takes nothing must not keep the others waiting.
func (r *registry) tell(typ string, body any, wait time.Duration) {
	sessions := r.sessions()
	told := make(chan struct{}, len(sessions))
	for _, s := range sessions {
		r.ending.Go(func() {
			_ = s.Notify(typ, body)
			told <- struct{}{}
		})
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for range sessions {
		select {
		case <-told:
		case <-timer.C:
			return
		}
	}
}

// closeAll ends the relay's bundles in an orderly way and closes every session;
// none enters after that.
func (r *registry) closeAll() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	var wg sync.WaitGroup
	for _, n := range r.withBundles() {
		if b := n.bundle(); b != nil {
			wg.Go(func() { b.Close(bundle.CodeIngressStopped) })
		}
	}
	wg.Wait()
	for _, s := range r.sessions() {
		wg.Go(func() { _ = s.Close("relay stopped") })
	}
	wg.Wait()
}
