package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/relay/ingress"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// openTimeout bounds a dial at an ingress of the relay: the node gives its store
// less, so that its own answer comes first.
const openTimeout = 30 * time.Second

// grantLife is how long a grant may open streams; it is renewed when less than
// grantMargin is left.
const (
	grantLife   = 60 * time.Second
	grantMargin = 20 * time.Second
)

// dialer authorizes dials and finds the way: it is the relay behind its
// ingresses, and answers clients' requests for grants.
type dialer struct {
	r        *Relay
	runs     *runs
	suspects suspects

	mu sync.Mutex
	// guarded by mu
	draining bool
	grants   map[grantKey]heldGrant
	streams  map[jobKey]map[*bundle.Stream]struct{}
}

// grantKey is what a grant of the relay's own ingresses is good for.
type grantKey struct {
	node        nodeKey
	incarnation string
	store       string
	job         jobKey
	run         string
}

type heldGrant struct {
	token   string
	expires time.Time
}

func newDialer(r *Relay) *dialer {
	return &dialer{r: r, runs: newRuns(), grants: make(map[grantKey]heldGrant), streams: make(map[jobKey]map[*bundle.Stream]struct{})}
}

func (d *dialer) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
}

// stopping is why nothing new begins; nil: the relay does not drain.
func (d *dialer) stopping() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining {
		return failure("relay-draining", "relay", "try again when the relay is back", "the relay is stopping")
	}
	return nil
}

// Authenticate checks a job's token. The token says which job it is; a name
// that disagrees is refused. Who shows too many bad ones has to connect anew for each.
func (d *dialer) Authenticate(ctx context.Context, name, text, peer string) (ingress.Job, error) {
	job, err := d.authenticate(ctx, name, text)
	if err != nil && d.suspects.bad(peer, time.Now()) {
		err = suspicious{err}
	}
	return job, err
}

// suspicious is the refusal of one bad token of too many.
type suspicious struct{ error }

// Unwrap is the refusal.
func (s suspicious) Unwrap() error { return s.error }

// Suspicious tells an ingress to close the connection.
func (suspicious) Suspicious() bool { return true }

func (d *dialer) authenticate(ctx context.Context, name, text string) (ingress.Job, error) {
	token, err := certs.ParseToken(text)
	if err != nil {
		return ingress.Job{}, failure("token-malformed", "relay", "copy the token whole, as ebbgate job create printed it", "%v", err)
	}
	if token.Pin != d.r.self.pin() {
		return ingress.Job{}, failure("token-invalid", "relay", "the token was made by another relay: create the job at this one", "the token is not of this relay")
	}
	job, err := known(ctx, d.r.state, func() (state.Job, error) { return d.r.state.CheckToken(token.JobID, token.Secret) })
	if err != nil {
		return ingress.Job{}, failure("token-invalid", "relay", "has the job been revoked? Create a new one with ebbgate job create", "the job token is not valid")
	}
	if name != "" && name != job.Name {
		return ingress.Job{}, failure("token-invalid", "relay", "use the job's name as the proxy user", "the token is not of job %q", name)
	}
	return ingress.Job{Tenant: job.Tenant, Name: job.Name}, nil
}

// Dial opens a stream for a job at one of the relay's own ingresses.
func (d *dialer) Dial(ctx context.Context, job ingress.Job, target ingress.Target, peer net.Addr) (ingress.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	to := dialling{owner: jobKey{job.Tenant, job.Name}, run: job.Run}
	stream, err := d.dial(ctx, &to, job, target, peer)
	count(d.r.metrics.dials, err)
	if err != nil {
		d.refused(to.owner, to.run, to.at, to.node, err)
		return nil, err
	}
	return stream, nil
}

// dialling is a dial at one of the relay's own ingresses, as far as it came.
type dialling struct {
	owner jobKey
	run   string
	at    place
	node  nodeKey
}

func (d *dialer) dial(ctx context.Context, to *dialling, job ingress.Job, target ingress.Target, peer net.Addr) (*trackedStream, error) {
	owner := to.owner
	at, err := d.resolve(owner, target)
	if err != nil {
		return nil, err
	}
	run := d.runs.enter(owner, job.Run, hostOf(peer))
	to.at, to.run = at, run.id
	n, err := d.find(owner, at.gateway, at.store, at.port, run.node())
	if err != nil {
		run.leave()
		return nil, err
	}
	to.node = n.key
	run.stick(n.key)
	own := d.r.registry.ownBundle(n, d.r.bundles) // its first lane may still be on its way
	token, err := d.grant(n, owner, at.store, run.id)
	if err != nil {
		run.leave()
		return nil, err
	}
	s, err := own.Open(ctx, bundle.Request{UUID: uuid.New(), Grant: token})
	if err != nil {
		run.leave()
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			return nil, failure("cancelled", "relay", "keep the connection open, in both directions, until the answer is there", "%s: the job gave up before the node answered", target.Host)
		case ctx.Err() != nil:
			return nil, failure("store-timeout", "node", "look at the node's log and network", "%s: the node did not answer in %v", target.Host, openTimeout)
		}
		return nil, openError(target.Host, err)
	}
	return d.track(owner, s, run, func(r bundle.Report) { d.note(owner, n.key, at.store, run.id, r) }), nil
}

// find authorizes a dial and picks a node: what the job may not dial is refused
// before it learns whether it exists.
func (d *dialer) find(job jobKey, gateway, store string, port int, preferred nodeKey) (*node, error) {
	if err := d.stopping(); err != nil {
		return nil, err
	}
	record, err := d.r.state.Job(job.tenant, job.job)
	if err != nil || record.Revoked {
		return nil, failure("revoked", "relay", "create the job again", "job %s was revoked", job.job)
	}
	if !record.Allows(gateway, store) {
		return nil, failure("job-not-allowed", "relay", fmt.Sprintf("allow it when the job is created: ebbgate job create NAME --allow %s/%s; hosts that are not stores are not reached here, name them in NO_PROXY", gateway, store), "job %s may not dial %s/%s", job.job, gateway, store)
	}
	if _, err := d.r.state.Gateway(job.tenant, gateway); err != nil {
		return nil, failure("gateway-unknown", "gateway", "ebbgate gateway list shows the gateways", "there is no gateway %s", gateway)
	}
	return d.pick(job.tenant, gateway, store, port, preferred)
}

// pick chooses among the gateway's nodes that are here and have the store: the
// run's own, else the least loaded.
func (d *dialer) pick(tenant, gateway, store string, port int, preferred nodeKey) (*node, error) {
	online := d.r.registry.gateway(tenant, gateway)
	var able []*node
	wrongPort := 0
	for _, n := range online {
		info, ok := n.store(store)
		switch {
		case !ok:
		case port != 0 && info.Port != port:
			wrongPort = info.Port
		case n.available():
			able = append(able, n)
		}
	}
	switch {
	case len(able) > 0:
		if i := slices.IndexFunc(able, func(n *node) bool { return n.key == preferred }); i >= 0 {
			return able[i], nil
		}
		return slices.MinFunc(able, func(a, b *node) int {
			return cmp.Or(cmp.Compare(a.load(), b.load()), strings.Compare(a.key.node, b.key.node))
		}), nil
	case wrongPort != 0:
		return nil, failure("port-mismatch", "store", fmt.Sprintf("use port %d, or 0 for the store's own", wrongPort), "%s.%s is on port %d, not %d", store, gateway, wrongPort, port)
	}
	if name, host, ok := d.r.peers.at(tenant, gateway, store); ok {
		return nil, errElsewhere(gateway, name, host)
	}
	if len(online) == 0 || d.announced(tenant, gateway, store) {
		return nil, failure("no-node-online", "gateway", fmt.Sprintf("ebbgate node list %s shows the nodes; is the connector running?", gateway), "no node of gateway %s is online that has store %s", gateway, store)
	}
	return nil, failure("store-unknown", "gateway", "declare the store in the connector's configuration", "no node of gateway %s has a store %s", gateway, store)
}

// announced tells whether any node of the gateway, here or not, ever announced
// the store.
func (d *dialer) announced(tenant, gateway, store string) bool {
	for _, n := range d.r.state.Nodes(tenant, gateway) {
		for _, s := range n.Stores {
			if s.Name == store {
				return true
			}
		}
	}
	return false
}

// available tells whether the node takes new streams.
func (n *node) available() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.leaving && (n.control != nil || n.bulk != nil)
}

func (n *node) load() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.own != nil {
		return max(n.report.Streams, n.own.Streams())
	}
	return n.report.Streams
}

// grant gives the relay's own grant for a run's dials of a store at a node; one
// serves until it has little time left.
func (d *dialer) grant(n *node, job jobKey, store, run string) (string, error) {
	key := grantKey{n.key, n.incarnation, store, job, run}
	now := time.Now()
	d.mu.Lock()
	held, ok := d.grants[key]
	d.mu.Unlock()
	if ok && held.expires.Sub(now) > grantMargin {
		return held.token, nil
	}
	token, expires, err := d.sign(n, job, store, run, d.r.name, now)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.grants) >= 4096 {
		for k, g := range d.grants {
			if g.expires.Before(now) {
				delete(d.grants, k)
			}
		}
	}
	d.grants[key] = heldGrant{token, expires}
	return token, nil
}

// sign makes a grant that the ingress may use.
func (d *dialer) sign(n *node, job jobKey, store, run string, ingress certs.Identity, now time.Time) (token string, expires time.Time, err error) {
	expires = now.Add(grantLife)
	token, err = d.r.self.signer().Sign(grant.Grant{
		ID: uuid.NewString(), Tenant: n.key.tenant, Gateway: n.key.gateway, Node: n.identity.String(), Store: store,
		Job: job.job, Run: run, Ingress: ingress.String(), Expires: expires,
	}, now)
	if err != nil {
		return "", time.Time{}, failure("internal", "relay", "look at the relay's log", "the relay could not sign a grant: %v", err)
	}
	return token, expires, nil
}

// trackedStream is a stream that a revocation finds and that its run counts.
type trackedStream struct {
	*bundle.Stream
	over func()
	note func(bundle.Report)
}

// Carry carries the stream and forgets it.
func (t *trackedStream) Carry(sock bundle.Socket, prefix []byte) bundle.Report {
	defer t.over()
	report := t.Stream.Carry(sock, prefix)
	t.note(report)
	return report
}

func (d *dialer) track(job jobKey, s *bundle.Stream, run *run, note func(bundle.Report)) *trackedStream {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.streams[job] == nil {
		d.streams[job] = make(map[*bundle.Stream]struct{})
	}
	d.streams[job][s] = struct{}{}
	return &trackedStream{s, func() {
		run.leave()
		d.mu.Lock()
		defer d.mu.Unlock()
		if delete(d.streams[job], s); len(d.streams[job]) == 0 {
			delete(d.streams, job)
		}
	}, note}
}

// revoke resets a job's streams at the relay's own ingresses.
func (d *dialer) revoke(job jobKey) {
	d.mu.Lock()
	var list []*bundle.Stream
	for s := range d.streams[job] {
		list = append(list, s)
	}
	for k := range d.grants {
		if k.job == job {
			delete(d.grants, k)
		}
	}
	d.mu.Unlock()
	for _, s := range list {
		s.Reset(bundle.CodeRevoked)
	}
}

func hostOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}

// maxLaneTokens bounds the tokens that one request gets.
const maxLaneTokens = 16

// forClient answers a client's dial: a grant that the client may use, the node
// that it is for, and tokens for lanes to it.
func (d *dialer) forClient(client certs.Identity, req tunnel.GrantRequest) (*tunnel.Granted, error) {
	at := place{gateway: req.Gateway, store: req.Store, port: req.Port}
	granted, err := d.tryForClient(client, req, &at)
	count(d.r.metrics.dials, err)
	if err != nil && codeOf(err) != codeElsewhere { // the client asks there
		d.refused(jobKey{client.Tenant, client.Name}, req.Run, at, nodeKey{}, err)
	}
	return granted, err
}

func (d *dialer) tryForClient(client certs.Identity, req tunnel.GrantRequest, at *place) (*tunnel.Granted, error) {
	if len(req.Run) > 128 {
		return nil, failure("run-invalid", "relay", "name runs with at most 128 characters", "a run's name of %d characters", len(req.Run))
	}
	var preferred nodeKey
	if id, err := certs.ParseIdentity(req.Node); err == nil && id.Role == certs.RoleNode && id.Tenant == client.Tenant {
		preferred = keyOf(id)
	}
	job := jobKey{client.Tenant, client.Name}
	if req.Host != "" {
		target, err := ingress.ParseTarget(net.JoinHostPort(req.Host, strconv.Itoa(req.Port)))
		if err != nil {
			return nil, err
		}
		if *at, err = d.resolve(job, target); err != nil {
			return nil, err
		}
	}
	n, err := d.find(job, at.gateway, at.store, at.port, preferred)
	if err != nil {
		return nil, err
	}
	token, expires, err := d.sign(n, job, at.store, req.Run, client, time.Now())
	if err != nil {
		return nil, err
	}
	answer := &tunnel.Granted{Grant: token, Node: n.identity.String(), Store: at.store, Expires: expires}
	answer.LaneTokens, err = d.laneTokens(client, n, req.Lanes)
	return answer, err
}

// laneTokens makes tokens for lanes from a client to a node.
func (d *dialer) laneTokens(client certs.Identity, n *node, lanes int) (tokens []string, err error) {
	for range min(max(lanes, 0), maxLaneTokens) {
		ticket, err := d.r.tickets.issue(client, n.key)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, ticket)
	}
	return tokens, nil
}

// lanes answers a client that wants lanes for a bundle that it has: to a node of
// a gateway that its job may use. It waits for a node that is nowhere.
func (d *dialer) lanes(ctx context.Context, client certs.Identity, req tunnel.LanesRequest, wait time.Duration) (*tunnel.LaneTokens, error) {
	if err := d.stopping(); err != nil {
		return nil, err
	}
	id, err := certs.ParseIdentity(req.Node)
	if err != nil || id.Role != certs.RoleNode || id.Tenant != client.Tenant {
		return nil, failure("job-not-allowed", "relay", "use the same version at both ends", "%.300q is no node of this tenant", req.Node)
	}
	record, err := d.r.state.Job(client.Tenant, client.Name)
	if err != nil || record.Revoked {
		return nil, failure("revoked", "relay", "create the job again", "job %s was revoked", client.Name)
	}
	if !slices.ContainsFunc(record.Allow, func(target string) bool { return strings.HasPrefix(target, id.Gateway+"/") }) {
		return nil, failure("job-not-allowed", "relay", "allow it when the job is created", "job %s may dial no store of %s", client.Name, id.Gateway)
	}
	elsewhere := d.r.peers.elsewhere(id.Tenant, id.Gateway)[id.Name]
	if len(elsewhere) > 0 {
		wait = 0
	}
	n := d.r.registry.await(ctx, keyOf(id), wait)
	if n == nil {
		if len(elsewhere) > 0 {
			return nil, errElsewhere(id.Gateway, id.Name, elsewhere[0].host)
		}
		return nil, failure("no-node-online", "gateway", fmt.Sprintf("ebbgate node list %s shows the nodes; is the connector running?", id.Gateway), "node %s is not online", id.Name)
	}
	tokens, err := d.laneTokens(client, n, req.Lanes)
	return &tunnel.LaneTokens{Tokens: tokens}, err
}

func portOf(address string) int {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return port
}
