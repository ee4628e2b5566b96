package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/prometheus/client_golang/prometheus"
)

// ticketLife is how long a lane's token waits to be used.
const ticketLife = 10 * time.Second

// maxTickets bounds the tokens that wait.
const maxTickets = 1 << 16

// tickets are the one-time tokens that join a client's lane to a node's. A token
// routes, it proves nothing: the ends verify each other.
type tickets struct {
	mu sync.Mutex
	// guarded by mu
	waiting map[string]ticket
	lanes   sync.WaitGroup
}

// ticket is what a token is bound to.
type ticket struct {
	client  certs.Identity
	node    nodeKey
	expires time.Time
}

func newTickets() *tickets { return &tickets{waiting: make(map[string]ticket)} }

// issue makes a token for a lane from a client to a node.
func (t *tickets) issue(client certs.Identity, n nodeKey) (string, error) {
	var random [16]byte
	_, _ = rand.Read(random[:])
	token := hex.EncodeToString(random[:])
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, old := range t.waiting {
		if now.After(old.expires) {
			delete(t.waiting, k)
		}
	}
	if len(t.waiting) >= maxTickets {
		return "", failure("relay-busy", "relay", "try again", "too many lanes are being made")
	}
	t.waiting[token] = ticket{client, n, now.Add(ticketLife)}
	return token, nil
}

// redeem uses a token up: once, in time, by the client that it was made for.
func (t *tickets) redeem(token string, client certs.Identity) (nodeKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	held, ok := t.waiting[token]
	if !ok || held.client != client || time.Now().After(held.expires) {
		return nodeKey{}, failure("lane-token-invalid", "relay", "ask for a new grant", "the lane's token is unknown, used or expired")
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
