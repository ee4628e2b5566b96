package client

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// codedError is what a relay answers.
type codedError string

func (e codedError) Error() string { return "relay: " + string(e) }
func (e codedError) Code() string  { return string(e) }

// testBroker is a relay that has one gateway with nodes in this process.
type testBroker struct {
	t    *testing.T
	life time.Duration // of a grant

	mu     sync.Mutex
	node   string // where grants lead
	nodes  map[string]*testNode
	refuse []error // answers to the next questions
	asked  int
	lanes  int
	tokens []string
	away   [tunnel.Places]bool
	silent bool // the second relay answers nothing about lanes

	preferred []string // the nodes that the client would like
}

// testNode is a node that dials one store.
type testNode struct {
	*bundle.Node
	store  string
	mu     sync.Mutex
	grants []string // of the streams that it was asked for
	answer []error  // to the next of them
	lanes  []net.Conn
	wg     sync.WaitGroup
}

func newTestBroker(t *testing.T, store string) *testBroker {
	b := &testBroker{t: t, life: time.Minute, node: "node-1", nodes: make(map[string]*testNode), away: [tunnel.Places]bool{1: true}}
	b.addNode("node-1", store)
	return b
}

func (b *testBroker) addNode(name, store string) *testNode {
	n := &testNode{store: store}
	n.Node = bundle.NewNode(bundle.Config{Incarnation: uint64(len(b.nodes) + 100), ResumeGrace: time.Minute}, n.open)
	b.mu.Lock()
	b.nodes[name] = n
	b.mu.Unlock()
	b.t.Cleanup(n.stop)
	return n
}

func (n *testNode) stop() {
	n.Close(bundle.CodeNodeStopped)
	n.wg.Wait()
}

func (n *testNode) open(ctx context.Context, _ string, req bundle.Request) (bundle.Socket, error) {
	n.mu.Lock()
	n.grants = append(n.grants, req.Grant)
	var err error
	if len(n.answer) > 0 {
		err, n.answer = n.answer[0], n.answer[1:]
	}
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Control: lingerZero}
	conn, err := dialer.DialContext(ctx, "tcp", n.store)
	if err != nil {
		return nil, &bundle.RefusedError{Reason: bundle.CodeStoreRefused, Text: err.Error()}
	}
	return conn.(*net.TCPConn), nil
}

func (n *testNode) opened() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.grants)
}

// cut kills all lanes.
func (n *testNode) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.lanes {
		c.Close()
	}
	n.lanes = nil
}

func (b *testBroker) up(via int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.away[via]
}

func (b *testBroker) direct(int) bool { return false }

func (b *testBroker) laneTokens(ctx context.Context, via int, node string, n int) ([]string, error) {
	b.mu.Lock()
	silent := b.silent && via == 1
	b.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	if b.nodes[node] == nil {
		return nil, codedError("no-node-online")
	}
	var tokens []string
	for i := range n {
		tokens = append(tokens, fmt.Sprintf("again-%d-%d", b.asked, i))
	}
	b.tokens = append(b.tokens, tokens...)
	return tokens, nil
}

func (b *testBroker) grant(_ context.Context, t Target, node string, lanes int) (*grant, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	b.preferred = append(b.preferred, node)
	if len(b.refuse) > 0 {
		err := b.refuse[0]
		b.refuse = b.refuse[1:]
		return nil, err
	}
	var tokens []string
	for i := range lanes {
		tokens = append(tokens, fmt.Sprintf("lane-%d-%d", b.asked, i))
	}
	b.tokens = append(b.tokens, tokens...)
	return &grant{
		target: t, text: fmt.Sprintf("%s via %s #%d", t, b.node, b.asked), node: b.node,
		fetched: time.Now(), expires: time.Now().Add(b.life), tokens: tokens,
	}, nil
}

func (b *testBroker) lane(ctx context.Context, _ int, node, token string, class int) (net.Conn, bundle.LaneInfo, error) {
	b.mu.Lock()
	n := b.nodes[node]
	i := slices.Index(b.tokens, token)
	if i >= 0 {
		b.tokens = slices.Delete(b.tokens, i, i+1) // single use
	}
	b.lanes++
	b.mu.Unlock()
	if i < 0 || n == nil {
		return nil, bundle.LaneInfo{}, codedError("lane-lost")
	}
	near, far := net.Pipe()
	info := bundle.LaneInfo{Carrier: "pipe", Local: "job", Peer: node, Exporter: make([]byte, 32)}
	n.mu.Lock()
	n.lanes = append(n.lanes, far)
	n.mu.Unlock()
	n.wg.Go(func() {
		_ = n.Serve(context.Background(), far, bundle.LaneInfo{Carrier: "pipe", Local: node, Peer: "job", Exporter: make([]byte, 32)})
	})
	return near, info, nil
}

func (b *testBroker) counts() (asked, lanes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked, b.lanes
}

// awaitLanes waits until so many lanes were ever opened.
func (b *testBroker) awaitLanes(n int) {
	b.t.Helper()
	until(b.t, fmt.Sprintf("%d lanes", n), func() bool {
		_, lanes := b.counts()
		return lanes >= n
	})
}

func testPool(t *testing.T, b broker) *pool { return poolOf(t, b, bundle.Config{Incarnation: 1}) }

// patientPool is one whose streams wait for lanes: one that was made may not carry
// yet when another is lost.
func patientPool(t *testing.T, b broker) *pool {
	return poolOf(t, b, bundle.Config{Incarnation: 1, ResumeGrace: time.Minute})
}

func poolOf(t *testing.T, b broker, cfg bundle.Config) *pool {
	p := newPool(b, cfg, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { p.close(bundle.CodeIngressStopped) })
	return p
}

// echoStore sends back what it gets, ends included.
func echoStore(t *testing.T) string {
	t.Helper()
	return tcpStore(t, func(c *net.TCPConn) {
		if _, err := io.Copy(c, c); err == nil {
			c.CloseWrite()
		}
	})
}

// tcpStore serves each connection with a function, then closes it.
func tcpStore(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return ln.Addr().String()
}
