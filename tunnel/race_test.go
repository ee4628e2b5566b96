package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// inspector looks into the TLS of whoever connects, as a proxy does: it shows a
// certificate of its own, and moves what is inside. protocols is its ALPN list.
type inspector struct {
	public    *tls.Certificate
	protocols []string
	tasks     sync.WaitGroup
}

func newInspector(t *testing.T, protocols ...string) *inspector {
	t.Helper()
	key, err := certs.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corp inspection"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	in := &inspector{public: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, protocols: protocols}
	t.Cleanup(in.tasks.Wait)
	return in
}

// dial is a Dialer's DialTCP.
func (in *inspector) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var direct net.Dialer
	far, err := direct.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	near, inside := net.Pipe()
	in.tasks.Go(func() {
		defer far.Close()
		defer inside.Close()
		client := tls.Server(inside, &tls.Config{Certificates: []tls.Certificate{*in.public}, NextProtos: in.protocols})
		if client.Handshake() != nil {
			return
		}
		server := tls.Client(far, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		in.tasks.Go(func() {
			_, _ = io.Copy(client, server)
			_ = inside.Close()
		})
		_, _ = io.Copy(server, client)
	})
	return near, nil
}

func TestInterceptedTLSLeadsToWSS(t *testing.T) {
	for name, protocols := range map[string][]string{"a foreign certificate": nil, "no protocol in common": {"http/1.1"}} {
		t.Run(name, func(t *testing.T) {
			p := newPKI(t)
			h := newHost(t, p)
			in := newInspector(t, protocols...)
			var log bytes.Buffer
			d := &Dialer{
				Endpoint: h.endpoint, TLS: p.client, DialTCP: in.dial,
				Proxied: func(_ string, port int) (bool, error) { return port == h.endpoint.TLSPort, nil },
				Logger:  slog.New(slog.NewTextHandler(&log, nil)),
			}
			if c := dial(t, d); c != WSS {
				t.Errorf("chose %s", c)
			}
			if !strings.Contains(log.String(), "code=tls-intercepted") {
				t.Errorf("the log does not say why:\n%s", log.String())
			}
			d.Carriers = []Carrier{TLS}
			var e *DialError
			if _, err := d.Dial(t.Context()); !errors.As(err, &e) || e.Code() != "tls-intercepted" || e.Hop() != "tls-interception" {
				t.Errorf("over tls only: %v", err)
			}
		})
	}
}

// TestPlainWebSocketThroughAProxy has a proxy that refuses CONNECT, or says yes
// and does something else, and takes plain requests.
func TestPlainWebSocketThroughAProxy(t *testing.T) {
	for name, connect := range map[string]func() (net.Conn, error){
		"CONNECT refused": func() (net.Conn, error) { return nil, errors.New("403") },
		"CONNECT to nowhere": func() (net.Conn, error) {
			near, far := net.Pipe()
			return near, far.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPKI(t)
			h := newHost(t, p)
			d := &Dialer{
				Endpoint: h.endpoint, Carriers: []Carrier{WS}, TLS: p.client,
				Proxied: func(string, int) (bool, error) { return true, nil },
				DialTCP: func(context.Context, string, string) (net.Conn, error) { return connect() },
				Upgrade: func(req *http.Request) (*http.Response, net.Conn, error) {
					conn, err := net.Dial("tcp", req.URL.Host)
					if err != nil {
						return nil, nil, err
					}
					if err := req.WriteProxy(conn); err != nil {
						return nil, nil, err
					}
					resp, err := http.ReadResponse(bufio.NewReader(conn), req)
					return resp, conn, err
				},
			}
			if c := dial(t, d); c != WS {
				t.Errorf("chose %s", c)
			}
			d.Upgrade = func(*http.Request) (*http.Response, net.Conn, error) {
				return nil, nil, Errorf("upgrade-refused", "proxy", "ask", "no")
			}
			var e *DialError
			if _, err := d.Dial(t.Context()); !errors.As(err, &e) || e.Code() != "upgrade-refused" {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// TestNothingGoesAroundAProxy has a proxy for one port of the relay only.
func TestNothingGoesAroundAProxy(t *testing.T) {
	endpoint := Endpoint{Host: "relay.example", TLSPort: 443, QUICPort: 443, HTTPPort: 80}
	for name, test := range map[string]struct {
		behind []int
		asked  []Carrier
		want   []Carrier
	}{
		"no proxy":        {nil, nil, []Carrier{QUIC, TLS, WSS, WS}},
		"for all":         {[]int{443, 80}, nil, []Carrier{TLS, WSS, WS}},
		"for HTTPS":       {[]int{443}, nil, []Carrier{TLS, WSS}},
		"for HTTP":        {[]int{80}, nil, []Carrier{WS}},
		"asked for ws":    {[]int{443}, []Carrier{WS}, nil},
		"asked for quic":  {[]int{443}, []Carrier{QUIC}, nil},
		"in another turn": {nil, []Carrier{WS, TLS}, []Carrier{WS, TLS}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &Dialer{Endpoint: endpoint, Carriers: test.asked, Proxied: func(_ string, port int) (bool, error) {
				return slices.Contains(test.behind, port), nil
			}}
			got, err := d.usable()
			if !slices.Equal(got, test.want) || (err != nil) != (test.want == nil) {
				t.Errorf("%v, %v; want %v", got, err, test.want)
			}
		})
	}
}

// TestRace has carriers that take their time, in virtual time, and 0 where they
// fail.
func TestRace(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		order []Carrier
		takes map[Carrier]time.Duration // negative: fails after it
		want  Carrier
		after time.Duration
	}{
		"all is well":              {Carriers, map[Carrier]time.Duration{QUIC: 30 * ms, TLS: 60 * ms, WSS: 90 * ms, WS: 90 * ms}, QUIC, 30 * ms},
		"UDP is silent":            {Carriers, map[Carrier]time.Duration{QUIC: -10000 * ms, TLS: 60 * ms, WSS: 90 * ms, WS: 90 * ms}, TLS, 310 * ms},
		"TLS is inspected":         {Carriers, map[Carrier]time.Duration{QUIC: -10000 * ms, TLS: -60 * ms, WSS: 90 * ms, WS: 90 * ms}, WSS, 400 * ms},
		"a long way":               {Carriers, map[Carrier]time.Duration{QUIC: 600 * ms, TLS: 900 * ms, WSS: 1500 * ms, WS: 1200 * ms}, QUIC, 600 * ms},
		"tls is slow":              {[]Carrier{TLS, WSS, WS}, map[Carrier]time.Duration{TLS: 1500 * ms, WSS: 100 * ms, WS: 100 * ms}, TLS, 1500 * ms},
		"tls is silent":            {[]Carrier{TLS, WSS, WS}, map[Carrier]time.Duration{TLS: -10000 * ms, WSS: 100 * ms, WS: 100 * ms}, WSS, 350*ms + raceGrace},
		"tls fails late":           {[]Carrier{TLS, WSS, WS}, map[Carrier]time.Duration{TLS: -500 * ms, WSS: 100 * ms, WS: 100 * ms}, WSS, 500 * ms},
		"wss overtakes ws":         {[]Carrier{TLS, WSS, WS}, map[Carrier]time.Duration{TLS: -10 * ms, WSS: 400 * ms, WS: 20 * ms}, WSS, 410 * ms},
		"wss was good here before": {[]Carrier{WSS, QUIC, TLS, WS}, map[Carrier]time.Duration{QUIC: 500 * ms, TLS: 600 * ms, WSS: 550 * ms, WS: 900 * ms}, WSS, 550 * ms},
		"nothing works":            {Carriers, map[Carrier]time.Duration{QUIC: -10 * ms, TLS: -10 * ms, WSS: -10 * ms, WS: -10 * ms}, "", 40 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var links []*fakeLink
				r := &race{carriers: test.order, lost: func(Carrier, error) {}, dial: func(ctx context.Context, c Carrier) (Link, error) {
					d := test.takes[c]
					select {
					case <-time.After(d.Abs()):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if d < 0 {
						return nil, errors.New("no")
					}
					link := newFakeLink(c)
					mu.Lock()
					defer mu.Unlock()
					links = append(links, link)
					return link, nil
				}}
				began := time.Now()
				link, err := r.run(t.Context())
				if took := time.Since(began); took != test.after {
					t.Errorf("took %v, want %v", took, test.after)
				}
				if test.want == "" {
					if err == nil {
						t.Error("something won")
					}
					return
				}
				if err != nil || link.Carrier() != test.want {
					t.Fatalf("%v, %v; want %s", link, err, test.want)
				}
				for _, l := range links {
					select {
					case <-l.Done():
						if l == link {
							t.Error("the winner is closed")
						}
					default:
						if l != link {
							t.Errorf("%s is left open", l.Carrier())
						}
					}
				}
			})
		})
	}
}

// TestBetterGoesUp asks for a better carrier than each.
func TestBetterGoesUp(t *testing.T) {
	p := newPKI(t)
	h := newHost(t, p)
	all, tcp, web := h.endpoint, h.endpoint, h.endpoint
	tcp.QUICPort, web.QUICPort = 0, 0
	inspected := newInspector(t).dial
	for _, test := range []struct {
		at      Endpoint
		dialTCP func(context.Context, string, string) (net.Conn, error)
		current Carrier
		want    Carrier // empty: none
	}{
		{all, nil, WS, QUIC},
		{all, nil, TLS, QUIC},
		{all, nil, QUIC, ""},
		{tcp, nil, WSS, TLS},
		{tcp, nil, TLS, ""},
		{web, inspected, WS, WSS},
		{web, inspected, WSS, ""},
	} {
		m := new(memory)
		d := &Dialer{Endpoint: test.at, TLS: p.client, DialTCP: test.dialTCP, Memory: m}
		link, _ := d.Better(t.Context(), test.current)
		got := Carrier("")
		if link != nil {
			got = link.Carrier()
			_ = link.Close("test over")
			if remembered := m.all(); !slices.Equal(remembered, []Carrier{got}) {
				t.Errorf("remembers %v", remembered)
			}
		}
		if got != test.want {
			t.Errorf("better than %s: %q, want %q", test.current, got, test.want)
		}
	}
	d := &Dialer{Endpoint: all, TLS: p.client, Carriers: []Carrier{WS}}
	if link, err := d.Better(t.Context(), WS); link != nil || err != nil {
		t.Errorf("a list has nothing better: %v, %v", link, err)
	}
}

// TestTheFurthestFailureComesFirst has failures of all carriers.
func TestTheFurthestFailureComesFirst(t *testing.T) {
	fail := func(c Carrier, hop string) failure { return failure{c, Errorf(string(c), hop, "", "at %s", hop)} }
	for name, test := range map[string]struct {
		failed failures
		first  Carrier
	}{
		"all the same":      {failures{fail(WS, "tcp"), fail(WSS, "tcp"), fail(TLS, "tcp"), fail(QUIC, "relay")}, TLS},
		"80 is closed":      {failures{fail(QUIC, "relay"), fail(TLS, "relay"), fail(WSS, "tcp"), fail(WS, "tcp")}, TLS},
		"443 is closed":     {failures{fail(TLS, "tcp"), fail(WSS, "tcp"), fail(WS, "proxy")}, WS},
		"inspected":         {failures{fail(TLS, "tls-interception"), fail(WSS, "proxy"), fail(WS, "proxy")}, TLS},
		"a plain error":     {failures{{WS, errors.New("x")}, fail(TLS, "dns")}, TLS},
		"QUIC and no other": {failures{fail(QUIC, "relay")}, QUIC},
	} {
		var e *DialError
		if err := test.failed.err(); !errors.As(err, &e) || e.Code() != string(test.first) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
