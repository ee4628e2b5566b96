package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// memory is a CarrierMemory.
type memory struct {
	mu sync.Mutex
	m  map[string]Carrier
}

func (m *memory) Recall(network string) (Carrier, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.m[network]
	return c, ok
}

func (m *memory) Remember(network string, c Carrier) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		m.m = make(map[string]Carrier)
	}
	m.m[network] = c
}

func (m *memory) all() (list []Carrier) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.m {
		list = append(list, c)
	}
	return list
}

func dial(t *testing.T, d *Dialer) Carrier {
	t.Helper()
	link, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close("test over")
	return link.Carrier()
}

func TestAutoPrefersQUICAndRemembers(t *testing.T) {
	p := newPKI(t)
	h := newHost(t, p)
	m := new(memory)
	d := &Dialer{Endpoint: h.endpoint, TLS: p.client, Memory: m, DialTCP: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done() // however slow this machine is
		return nil, ctx.Err()
	}}
	if c := dial(t, d); c != QUIC {
		t.Errorf("chose %s", c)
	}
	if got := m.all(); !slices.Equal(got, []Carrier{QUIC}) {
		t.Errorf("remembers %v", got)
	}
}

func TestAutoGoesAroundDeafUDP(t *testing.T) {
	p := newPKI(t)
	h := newHost(t, p)
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0") // takes everything, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	endpoint := h.endpoint
	endpoint.QUICPort = deaf.LocalAddr().(*net.UDPAddr).Port
	m := new(memory)
	d := &Dialer{Endpoint: endpoint, TLS: p.client, Memory: m}
	c := dial(t, d)
	if c == QUIC {
		t.Errorf("chose %s", c)
	}
	if got := m.all(); !slices.Equal(got, []Carrier{c}) {
		t.Errorf("remembers %v", got)
	}
	// The network lets UDP through again: a probe finds it.
	d.Endpoint = h.endpoint
	link, err := d.Better(t.Context(), TLS)
	if err != nil || link == nil || link.Carrier() != QUIC {
		t.Fatalf("%v %v", link, err)
	}
	_ = link.Close("test over")
	if link, err := d.Better(t.Context(), QUIC); link != nil || err != nil {
		t.Errorf("something is better than the best: %v %v", link, err)
	}
}

func TestProxiedNeverGoesAround(t *testing.T) {
	p := newPKI(t)
	h := newHost(t, p)
	var dialled atomic.Int64
	d := &Dialer{
		Endpoint: h.endpoint, TLS: p.client,
		Proxied: func(string, int) (bool, error) { return true, nil },
		DialTCP: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}
	if c := dial(t, d); c == QUIC || dialled.Load() == 0 {
		t.Errorf("chose %s with %d connections through the proxy", c, dialled.Load())
	}
	d.Carriers = []Carrier{QUIC}
	var e *Error
	if _, err := d.Dial(t.Context()); !errors.As(err, &e) || e.ErrCode != "no-carrier" {
		t.Errorf("QUIC through a proxy: %v", err)
	}
}

func TestDialErrorsNameTheHop(t *testing.T) {
	p, other := newPKI(t), newPKI(t)
	h := newHost(t, p)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().(*net.TCPAddr).Port
	l.Close()
	tests := []struct {
		name      string
		d         Dialer
		code, hop string
	}{
		{"nobody listens", Dialer{Endpoint: Endpoint{Host: "127.0.0.1", TLSPort: closed}, TLS: p.client}, "connection-failed", "tcp"},
		{"no such name", Dialer{Endpoint: Endpoint{Host: "relay.invalid", TLSPort: 443}, TLS: p.client}, "name-unresolved", "dns"},
		{"another relay", Dialer{Endpoint: h.endpoint, Carriers: []Carrier{TLS}, TLS: other.client}, "relay-unknown", "relay"},
		{"another relay by QUIC", Dialer{Endpoint: h.endpoint, Carriers: []Carrier{QUIC}, TLS: other.client}, "relay-unknown", "relay"},
		{"another relay by pin", Dialer{Endpoint: h.endpoint, Carriers: []Carrier{TLS}, TLS: func() *tls.Config { return certs.PinnedConfig(certs.Pin{1}, []string{ALPN}, nil) }}, "relay-unknown", "relay"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.d.Dial(t.Context())
			var e *DialError
			if !errors.As(err, &e) || e.Code() != test.code || e.Hop() != test.hop || e.Advice() == "" {
				t.Errorf("%v (%+v)", err, e)
			}
		})
	}
}

// fakeLink is a link that does nothing but end.
type fakeLink struct {
	Link
	wear    *wear
	carrier Carrier
	once    sync.Once
	over    chan struct{}
}

func newFakeLink(c Carrier) *fakeLink {
	return &fakeLink{carrier: c, over: make(chan struct{}), wear: newWear()}
}

func (l *fakeLink) Carrier() Carrier      { return l.carrier }
func (l *fakeLink) Worn() <-chan struct{} { return l.wear.Worn() }
func (l *fakeLink) Wear(why string)       { l.wear.Wear(why) }
func (l *fakeLink) Done() <-chan struct{} { return l.over }
func (l *fakeLink) Close(string) error    { l.once.Do(func() { close(l.over) }); return nil }

func TestKeeperBacksOffAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials []time.Time
		served := make(chan *fakeLink)
		k := &Keeper{
			Dial: func(context.Context) (Link, error) {
				dials = append(dials, time.Now())
				if len(dials) <= 20 {
					return nil, errors.New("down")
				}
				return newFakeLink(TLS), nil
			},
			Serve: func(ctx context.Context, link Link, up func()) error {
				up()
				served <- link.(*fakeLink)
				select {
				case <-link.Done():
					return errors.New("lost")
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- k.Run(ctx) }()
		link := <-served
		for i := 1; i < len(dials); i++ {
			if gap := dials[i].Sub(dials[i-1]); gap > backoffMost {
				t.Errorf("waited %v before dial %d", gap, i)
			}
		}
		// After half a minute of health the first pause is short again.
		time.Sleep(healthyAfter)
		lost := time.Now()
		_ = link.Close("")
		<-served
		if pause := time.Since(lost); pause > backoffFirst {
			t.Errorf("came back after %v", pause)
		}
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}

func TestKeeperStopsAtFinalErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		final := &Error{ErrCode: "revoked", Final: true}
		dials := 0
		k := &Keeper{Dial: func(context.Context) (Link, error) { dials++; return nil, final }}
		if err := k.Run(t.Context()); !errors.Is(err, final) || dials != 1 {
			t.Errorf("%v after %d dials", err, dials)
		}
	})
}

func TestKeeperMovesToABetterCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := false // UDP, after ten minutes
		type event struct {
			what string
			c    Carrier
		}
		var mu sync.Mutex
		var events []event
		note := func(what string, c Carrier) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, event{what, c})
		}
		k := &Keeper{
			Dial: func(context.Context) (Link, error) { return newFakeLink(TLS), nil },
			Better: func(_ context.Context, current Carrier) (Link, error) {
				mu.Lock()
				defer mu.Unlock()
				if !opened || current == QUIC {
					return nil, errors.New("no")
				}
				return newFakeLink(QUIC), nil
			},
			Serve: func(ctx context.Context, link Link, up func()) error {
				note("up", link.Carrier())
				up()
				select {
				case <-link.Done():
				case <-ctx.Done():
				}
				note("over", link.Carrier())
				return errors.New("over")
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- k.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		mu.Lock()
		opened = true
		mu.Unlock()
		time.Sleep(15 * time.Minute)
		mu.Lock()
		got := slices.Clone(events)
		mu.Unlock()
		// the better one is up before the old one is over
		if want := []event{{"up", TLS}, {"up", QUIC}, {"over", TLS}}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		cancel()
		<-over
	})
}
