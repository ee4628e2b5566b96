package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// ticketLife is how long a lane's token waits to be used.
const ticketLife = 10 * time.Second

const (
	// maxTickets bounds the tokens that wait.
	maxTickets = 1 << 16
	// sweepEvery is how often those are looked for that are too old.
	sweepEvery = time.Second
)

// tickets are the one-time tokens of lanes: those with which a client asks for a
// lane to a node, and those with which a node's direct lane finds who waits for
// it. A token routes, it proves nothing: the ends verify each other.
type tickets struct {
	mu sync.Mutex
	// guarded by mu
	waiting map[string]ticket
	swept   time.Time
	lanes   sync.WaitGroup
}

// ticket is what a token is bound to.
type ticket struct {
	ingress certs.Identity // the client, or this relay
	node    nodeKey
	expires time.Time
	arrived chan *tunnel.Peeked // takes the node's connection; nil: a client's token
}

func newTickets() *tickets { return &tickets{waiting: make(map[string]ticket)} }

// issue makes a token for a lane from a client to a node.
func (t *tickets) issue(client certs.Identity, n nodeKey) (string, error) {
	return t.add(ticket{ingress: client, node: n})
}

func (t *tickets) add(made ticket) (string, error) {
	var random [16]byte
	_, _ = rand.Read(random[:])
	token := hex.EncodeToString(random[:])
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweepLocked(now)
	if len(t.waiting) >= maxTickets {
		return "", failure("relay-busy", "relay", "try again", "too many lanes are being made")
	}
	made.expires = now.Add(ticketLife)
	t.waiting[token] = made
	return token, nil
}

// sweepLocked takes out what is too old, now and then: with each token it would
// cost more the more of them wait.
func (t *tickets) sweepLocked(now time.Time) {
	if now.Sub(t.swept) < sweepEvery {
		return
	}
	t.swept = now
	for k, old := range t.waiting {
		if now.After(old.expires) {
			delete(t.waiting, k)
		}
	}
}

// expect makes a token for a node's direct lane. Its connection comes over
// arrived; whoever waits calls done when it does not any more, and owns what
// came.
func (t *tickets) expect(ingress certs.Identity, n nodeKey) (token string, arrived <-chan *tunnel.Peeked, done func(), err error) {
	made := ticket{ingress: ingress, node: n, arrived: make(chan *tunnel.Peeked, 1)}
	token, err = t.add(made)
	return token, made.arrived, func() {
		t.mu.Lock()
		delete(t.waiting, token)
		t.mu.Unlock()
		select {
		case late := <-made.arrived:
			_ = late.Close()
		default:
		}
	}, err
}

// arrive gives a node's connection to who waits for it; false: nobody does.
func (t *tickets) arrive(conn *tunnel.Peeked) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	held, ok := t.waiting[conn.Token]
	if !ok || held.arrived == nil || time.Now().After(held.expires) {
		return false
	}
	delete(t.waiting, conn.Token)
	held.arrived <- conn // has room for one, and this token is gone
	return true
}

// claim uses up a client's token that came on a connection of its own, where
// nobody has proved anything yet: the node will find out.
func (t *tickets) claim(token string) (ticket, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	held, ok := t.waiting[token]
	if !ok || held.arrived != nil || time.Now().After(held.expires) {
		return ticket{}, errTicket()
	}
	delete(t.waiting, token)
	return held, nil
}

func errTicket() error {
	return failure("lane-token-invalid", "relay", "ask for a new grant", "the lane's token is unknown, used or expired")
}

// redeem uses a token up: once, in time, by the client that it was made for.
func (t *tickets) redeem(token string, client certs.Identity) (nodeKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	held, ok := t.waiting[token]
	if !ok || held.arrived != nil || held.ingress != client || time.Now().After(held.expires) {
		return nodeKey{}, errTicket()
	}
	delete(t.waiting, token)
	return held.node, nil
}

// wait waits until no client's lane is moved any more, or ctx ends.
func (t *tickets) wait(ctx context.Context) {
	over := make(chan struct{})
	go func() { t.lanes.Wait(); close(over) }()
	select {
	case <-over:
	case <-ctx.Done():
	}
}

// join moves bytes between a client's lane and a node's until either ends, and
// closes both: a lane has no half-close.
func (t *tickets) join(client, node io.ReadWriteCloser, copied prometheus.Counter) {
	t.lanes.Add(1)
	defer t.lanes.Done()
	var both sync.WaitGroup
	pump := func(to, from io.ReadWriteCloser) {
		buf := make([]byte, 128<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				copied.Add(float64(n))
				if _, err := to.Write(buf[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		_ = to.Close()
		_ = from.Close()
	}
	both.Go(func() { pump(node, client) })
	both.Go(func() { pump(client, node) })
	both.Wait()
}
