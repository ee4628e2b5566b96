package connector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// testTimeout bounds a test of a store.
	testTimeout = 15 * time.Second
	// testWatch is how long an open connection is watched for an end that comes at
	// once.
	testWatch = time.Second
	// maxTested bounds the addresses that a test dials.
	maxTested = 16
	// testsAtOnce and testBurst bound the tests that run, and that may follow each
	// other faster than testEvery.
	testsAtOnce = 4
	testBurst   = 10
	testEvery   = time.Second
)

// tests bounds how often stores are tested. The zero value is ready.
type tests struct {
	mu sync.Mutex
	// guarded by mu
	running int
	full    time.Time // when all of testBurst may follow each other again
}

// enter lets a test begin, until leave is called; false: not now.
func (t *tests) enter(now time.Time) (leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.full.Before(now) {
		t.full = now
	}
	if t.running >= testsAtOnce || t.full.Sub(now) > (testBurst-1)*testEvery {
		return nil, false
	}
	t.running++
	t.full = t.full.Add(testEvery)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.running--
	}, true
}

// testStore answers the relay's question how a store is. The node's own
// configuration decides what is dialled, as for every dial.
func (r *running) testStore(ctx context.Context, body json.RawMessage) (any, error) {
	var m tunnel.StoreTest
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, tunnel.Errorf("message-malformed", "node", "use the same version at both ends", "%s: %v", tunnel.TypeStoreTest, err)
	}
	leave, ok := r.tests.enter(time.Now())
	if !ok {
		return nil, tunnel.Errorf("node-busy", "node", "try again in some seconds", "node %s tests stores already, as many as it may", r.id.name.Name)
	}
	defer leave()
	st, ok := r.store(m.Store)
	if !ok {
		return nil, tunnel.Errorf("store-unknown", "node", "declare the store in the node's connector.yaml", "node %s has no store %.80q in its configuration", r.id.name.Name, m.Store)
	}
	r.gate.awaitGuards(ctx)
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	t := &storeTest{dialer: r.gate.dialer, st: st, watch: testWatch}
	t.run(ctx)
	r.logger.Info("store tested", "store", st.Name, "ok", t.ok())
	return tunnel.StoreTested{Hops: t.hops}, nil
}

// storeTest is one test of a store: hop by hop as a dial goes, but to every
// address, and without a byte of a job.
type storeTest struct {
	dialer *dialer
	st     config.Store
	watch  time.Duration
	hops   []tunnel.Hop
}

func (t *storeTest) ok() bool { return len(t.hops) > 0 && t.hops[len(t.hops)-1].OK }

// hop adds a hop that began at start and went well, unless err says what not.
func (t *storeTest) hop(name string, start time.Time, err error, format string, args ...any) {
	h := tunnel.Hop{Name: name, OK: err == nil, Millis: millis(time.Since(start)), Detail: fmt.Sprintf(format, args...)}
	if err != nil {
		f := failureOf(err, time.Time{})
		h.Detail, h.Advice = f.Message, f.Advice
	}
	t.hops = append(t.hops, h)
}

// run takes the hops until one fails.
func (t *storeTest) run(ctx context.Context) {
	start := time.Now()
	if err := t.dialer.checkName(t.st); err != nil {
		t.hop("policy", start, err, "")
		return
	}
	resolving, cancel := context.WithTimeout(ctx, dialTimeout)
	addrs, err := t.dialer.resolve(resolving, t.st.Host)
	cancel()
	if err != nil {
		t.hop("dns", start, unresolved(t.st, err, dialTimeout), "")
		return
	}
	if _, ok := literal(t.st.Host); ok {
		t.hop("dns", start, nil, "%s is an address", t.st.Host)
	} else {
		t.hop("dns", start, nil, "%s is %s", t.st.Host, list(addrs, netip.Addr.String))
	}
	start = time.Now()
	allowed, refused := t.dialer.sort(t.st, addrs)
	switch {
	case len(allowed) == 0:
		t.hop("policy", start, refusedAddresses(t.st, refused), "")
		return
	case len(refused) > 0:
		t.hop("policy", start, nil, "allowed: %s; refused: %s", list(allowed, netip.AddrPort.String),
			list(refused, func(r refusal) string { return r.addr.String() + " (" + what[r.special] + ")" }))
	default:
		t.hop("policy", start, nil, "allowed: %s", list(allowed, netip.AddrPort.String))
	}
	if sock := t.dial(ctx, interleave(allowed)); sock != nil {
		t.listen(ctx, sock)
	}
}

// list shows some of a list.
func list[T any](all []T, text func(T) string) string {
	var shown []string
	for _, one := range all[:min(len(all), maxTested)] {
		shown = append(shown, text(one))
	}
	s := strings.Join(shown, ", ")
	if n := len(all) - maxTested; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}

// tried is what became of one address.
type tried struct {
	miss
	sock bundle.Socket
	took time.Duration
}

// dial connects to every address and keeps the connection that was there first.
func (t *storeTest) dial(ctx context.Context, allowed []netip.AddrPort) bundle.Socket {
	start := time.Now()
	left := 0
	if len(allowed) > maxTested {
		allowed, left = allowed[:maxTested], len(allowed)-maxTested
	}
	rounds := (len(allowed) + maxAttempts - 1) / maxAttempts
	each := dialTimeout / time.Duration(rounds)
	results := make([]*tried, len(allowed))
	turns := make(chan struct{}, maxAttempts)
	var wg sync.WaitGroup
	for i, to := range allowed {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			one, cancel := context.WithTimeout(ctx, each)
			defer cancel()
			began := time.Now()
			sock, err := t.dialer.connector()(one, t.st, to)
			results[i] = &tried{miss{to, err}, sock, time.Since(began)}
		})
	}
	wg.Wait()
	var first *tried
	var misses []miss
	for _, r := range results {
		switch {
		case r.err != nil:
			misses = append(misses, r.miss)
		case first == nil || r.took < first.took:
			first = r
		}
	}
	if first == nil {
		t.hop("tcp", start, unreached(t.st, misses, each), "")
		return nil
	}
	detail := list(results, func(r *tried) string {
		if r.err != nil {
			_, seen := connectOutcome(r.err)
			return r.to.String() + " " + seen
		}
		return fmt.Sprintf("%s in %.1f ms", r.to, millis(r.took))
	})
	if left > 0 {
		detail += fmt.Sprintf("; %d more addresses were not tried", left)
	}
	for _, r := range results {
		if r.sock != nil && r != first {
			closeWell(r.sock)
		}
	}
	h := tunnel.Hop{Name: "tcp", OK: true, Millis: millis(first.took), Detail: detail}
	if len(misses) > 0 {
		h.Advice = "dials go on to the next address, but take longer: see why some do not answer"
	}
	t.hops = append(t.hops, h)
	return first.sock
}

// listen watches the connection for an end that comes at once. What the store
// says is nobody's business here: one byte is read and forgotten.
func (t *storeTest) listen(ctx context.Context, sock bundle.Socket) {
	defer closeWell(sock)
	start := time.Now()
	_ = sock.SetReadDeadline(start.Add(t.watch))
	defer context.AfterFunc(ctx, func() { _ = sock.SetReadDeadline(time.Unix(1, 0)) })()
	_, err := sock.Read(make([]byte, 1))
	const advice = "the port is open, but not for this node: see the store's own log and access list, and whether a load balancer in front of it has no healthy server"
	switch {
	case err == nil:
		t.hop("store", start, nil, "accepts and speaks first")
	case errors.Is(err, os.ErrDeadlineExceeded):
		t.hop("store", start, nil, "accepts and waits for its client")
	case errors.Is(err, io.EOF):
		t.hop("store", start, storeError("store-closes", err, advice, "store %s (%s) accepts the connection and closes it at once", t.st.Name, address(t.st)), "")
	case errors.Is(err, errReset):
		t.hop("store", start, storeError("store-resets", err, advice, "store %s (%s) accepts the connection and resets it at once", t.st.Name, address(t.st)), "")
	default:
		t.hop("store", start, storeError("store-closes", err, advice, "store %s (%s) accepts the connection, and then: %v", t.st.Name, address(t.st), reason(err)), "")
	}
}

// closeWell ends a connection that carried nothing in an orderly way: a reset
// would stand in the store's log.
func closeWell(sock bundle.Socket) {
	_ = sock.SetLinger(-1)
	_ = sock.Close()
}
