package relay

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// nodeKey names a node; tenants never share one.
type nodeKey struct{ tenant, gateway, node string }

func keyOf(id certs.Identity) nodeKey { return nodeKey{id.Tenant, id.Gateway, id.Name} }

// node is a connector process that is here now: its sessions, what it reported,
// and the bundle of the relay's own ingresses.
type node struct {
	// static after construction
	key         nodeKey
	identity    certs.Identity
	incarnation string

	mu sync.Mutex
	// guarded by mu
	control *tunnel.Session
	bulk    *tunnel.Session // on TCP carriers, once it is there
	hello   tunnel.Hello
	report  tunnel.Heartbeat
	since   time.Time
	leaving bool // it drains
	// confirms is the incarnation of another process that came to another relay
	// under the same identity, while this one answered.
	confirms string
	expires  time.Time      // of the newest certificate that was issued to it
	own      *bundle.Bundle // for the relay's ingresses
}

// session gives the session for lanes of a class: the express lane goes over
// the control session, others over the bulk session where there is one.
func (n *node) session(express bool) *tunnel.Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !express && n.bulk != nil {
		return n.bulk
	}
	return n.control
}

// bundle is the bundle of the relay's own ingresses; nil: there is none yet.
func (n *node) bundle() *bundle.Bundle {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.own == nil || n.own.Err() != nil {
		return nil
	}
	return n.own
}

// store finds a store that the node announced.
func (n *node) store(name string) (tunnel.StoreInfo, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.hello.Stores, func(s tunnel.StoreInfo) bool { return s.Name == name })
	if i < 0 {
		return tunnel.StoreInfo{}, false
	}
	return n.hello.Stores[i], true
}

// stores are what the node announced.
func (n *node) stores() []tunnel.StoreInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hello.Stores // never changed, only replaced
}

// configure takes over a changed configuration, where s is the node's control
// session.
func (n *node) configure(s *tunnel.Session, c tunnel.NodeConfig) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.control != s {
		return false
	}
	n.hello.Stores = c.Stores
	return true
}

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
		clients: make(map[*tunnel.Session]certs.Identity), all: make(map[*tunnel.Session]struct{}),
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
		if old == nil {
			r.mark(key)
			return n, nil
		}
		ping, cancel := context.WithTimeout(ctx, displacePing)
		_, err := old.Ping(ping)
		cancel()
		if err == nil {
			return nil, errIdentityInUse(key)
		}
		_ = old.Close("displaced")
		r.part(old, key, "displaced")
	}
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

// tryJoin joins, or returns the session that has to be asked first.
func (r *registry) tryJoin(s *tunnel.Session, key nodeKey, id certs.Identity, hello tunnel.Hello) (n *node, old *tunnel.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = r.nodes[key]
	if n != nil && n.incarnation != hello.Incarnation {
		n.mu.Lock()
		defer n.mu.Unlock()
		if old = n.control; old == nil {
			old = n.bulk
		}
		if old != nil {
			return nil, old
		}
		n = nil
	}
	if n == nil {
		n = r.enterLocked(key, id, hello.Incarnation)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if hello.Role == tunnel.RoleBulk {
		n.bulk = s
		return n, nil
	}
	n.control, n.hello = s, hello
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
	if n.control == s {
		n.control = nil
	}
	if n.bulk == s {
		n.bulk = nil
	}
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
