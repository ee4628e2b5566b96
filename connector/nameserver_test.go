package connector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// nameserver is a DNS server on loopback that answers a name with other addresses
// each time that it is asked.
type nameserver struct {
	conn net.PacketConn

	mu      sync.Mutex
	answers map[string][]func() []netip.Addr // by name, in turn; the last one stays
	asked   map[string]int                   // A questions
}

func startNameserver(t *testing.T) *nameserver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameserver{conn: conn, answers: make(map[string][]func() []netip.Addr), asked: make(map[string]int)}
	over := make(chan struct{})
	go func() { defer close(over); s.serve() }()
	t.Cleanup(func() { _ = conn.Close(); <-over })
	return s
}

// turns has a name answered with these addresses, one after the other.
func (s *nameserver) turns(name string, list ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range list {
		addr := netip.MustParseAddr(a)
		s.answers[name] = append(s.answers[name], func() []netip.Addr { return []netip.Addr{addr} })
	}
}

func (s *nameserver) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		if raw, err := s.answer(m); err == nil {
			_, _ = s.conn.WriteTo(raw, from)
		}
	}
}

func (s *nameserver) answer(m dnsmessage.Message) ([]byte, error) {
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	s.mu.Lock()
	turns := s.answers[q.Name.String()]
	if len(turns) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	} else if q.Type == dnsmessage.TypeA {
		turn := s.asked[q.Name.String()]
		s.asked[q.Name.String()]++
		for _, a := range turns[min(turn, len(turns)-1)]() {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	s.mu.Unlock()
	return m.Pack()
}

// resolver is the system's, asking this server.
func (s *nameserver) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", s.conn.LocalAddr().String())
	}}
}

func (s *nameserver) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// TestRebindingNameserver: a server that changes its answer between check and
// connect, over and over, never gets a socket to an address that is refused, nor
// to one that was not checked.
func TestRebindingNameserver(t *testing.T) {
	ln, port := tcp(t, "127.0.0.1:0")
	reached := make(chan struct{}, 100)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			reached <- struct{}{}
			_ = conn.Close()
		}
	}()
	s := startNameserver(t)
	var turns []string
	for range 10 {
		turns = append(turns, "203.0.113.9", "127.0.0.1")
	}
	s.turns("rebind.example.", turns...)
	d := &dialer{resolver: s.resolver(), guards: &guards{}, timeout: 5 * time.Second}
	d.connect = func(ctx context.Context, st config.Store, to netip.AddrPort) (bundle.Socket, error) {
		if to.Addr() != netip.MustParseAddr("203.0.113.9") {
			t.Errorf("it goes to %v", to)
		}
		if _, err := d.connectTCP(ctx, st, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port())); !errors.Is(err, errChecked) {
			t.Errorf("a socket to an address that is refused: %v", err)
		}
		return nil, errRefused
	}
	st := config.Store{Name: "erp", Host: "rebind.example", Port: port}
	for turn := range 20 {
		_, err := d.dial(t.Context(), st)
		want := codeRefused
		if turn%2 == 1 {
			want = codeAddress
		}
		wantError(t, err, want)
		if n := s.count("rebind.example."); n != turn+1 {
			t.Fatalf("asked %d times for dial %d", n, turn+1)
		}
	}
	_, err := d.dial(t.Context(), config.Store{Name: "erp", Host: "absent.example", Port: port})
	wantError(t, err, codeUnresolved, "does not exist")
	_ = ln.Close()
	<-over
	if len(reached) > 0 {
		t.Errorf("%d connections arrived at a refused address", len(reached))
	}
}

// TestGuardsFollow: the relay's and the proxy's addresses are refused where they
// are now, where they were, and by name.
func TestGuardsFollow(t *testing.T) {
	g := new(guards)
	d := &dialer{guards: g, resolver: answers("10.0.0.9"), connect: (&black{alive: map[string]time.Duration{"10.0.0.9": 0}}).connect}
	st := config.Store{Name: "erp", Host: "erp.corp", Port: 8080}
	if sock, err := d.dial(t.Context(), st); err != nil {
		t.Fatal(err)
	} else {
		_ = sock.Close()
	}
	g.add(config.SpecialProxy, "Proxy.corp.", 8080, netip.MustParseAddr("10.0.0.1"))
	g.add(config.SpecialProxy, "proxy.corp", 8080, netip.MustParseAddr("10.0.0.9")) // it moved
	_, err := d.dial(t.Context(), st)
	wantError(t, err, codeAddress, "the proxy")
	d.resolver = answers("10.0.0.1")
	_, err = d.dial(t.Context(), st)
	wantError(t, err, codeAddress, "the proxy")
	for _, host := range []string{"proxy.corp", "PROXY.CORP", "proxy.corp."} {
		_, err = d.dial(t.Context(), config.Store{Name: "erp", Host: host, Port: 8080})
		wantError(t, err, codeAddress, fmt.Sprintf("%s:8080", host))
	}
	// Another port there is another service.
	d.resolver = answers("10.0.0.9")
	if sock, err := d.dial(t.Context(), config.Store{Name: "erp", Host: "erp.corp", Port: 1433}); err != nil {
		t.Error(err)
	} else {
		_ = sock.Close()
	}
}
