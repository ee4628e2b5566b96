package relay

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/proxy"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a relay on this machine and its API.
type running struct {
	t     testing.TB
	dir   string
	ready Ready
	api   *admin.Client
	stop  func()
	relay *Relay
}

func startRelay(t testing.TB, drain time.Duration) *running {
	t.Helper()
	return startRelayWith(t, drain, func(*Config) {})
}

func startRelayWith(t testing.TB, drain time.Duration, change func(*Config)) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay") // short: it holds a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := &config.Relay{
		Hostname: "127.0.0.1",
		Listen:   config.RelayListen{TLS: "127.0.0.1:0", QUIC: "127.0.0.1:0", HTTP: "127.0.0.1:0"},
		Ingress: config.RelayIngress{
			Connect: config.RelayDoor{Listen: "127.0.0.1:0"}, Socks5: config.RelayDoor{Listen: "127.0.0.1:0"}, HTTPS: true,
			Ports: []config.RelayPort{{RelayDoor: config.RelayDoor{Listen: "127.0.0.1:0"}, Gateway: "corp", Store: "echo", Job: "nightly"}},
		},
		State: config.RelayState{Dir: dir, KeyFile: dir + "/state.key"},
	}
	ready := make(chan Ready, 1)
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	cfg := Config{File: file, Init: true, DrainTimeout: drain, Ready: func(a Ready) { ready <- a }, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))}
	change(&cfg)
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- r.Run(ctx); close(over) }()
	run := &running{t: t, dir: dir, relay: r}
	run.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(run.stop)
	select {
	case run.ready = <-ready:
	case err := <-over:
		t.Fatal(err)
	}
	if run.api, err = admin.Dial(run.ready.API); err != nil {
		t.Fatal(err)
	}
	return run
}

// testNode is a connector without its configuration, policy and renewal.
type testNode struct {
	saved *certs.Saved
	id    certs.Identity
	node  *bundle.Node
	// by role, once it is online
	sessions map[string]*tunnel.Session
	// connect makes one more session, once it is online
	connect func(role string) *tunnel.Session
	// answers what the relay asks; nil: with nothing
	handle atomic.Pointer[func(typ string) (any, error)]
}

func (r *running) dialer(c tunnel.Carrier, cfg func() *tls.Config) *tunnel.Dialer {
	return &tunnel.Dialer{
		Endpoint: tunnel.Endpoint{Host: "127.0.0.1", TLSPort: portOf(r.ready.TLS), QUICPort: portOf(r.ready.QUIC), HTTPPort: portOf(r.ready.HTTP)},
		Carriers: []tunnel.Carrier{c}, TLS: cfg,
	}
}

// register enrols a node of a gateway.
func (r *running) register(c tunnel.Carrier, gateway, name string) (*testNode, error) {
	keys, err := r.api.GatewayKeys(r.t.Context(), "default", gateway)
	if err != nil {
		return nil, err
	}
	key, err := certs.ParseKey(keys.Key1)
	if err != nil {
		return nil, err
	}
	link, err := r.dialer(c, func() *tls.Config { return certs.PinnedConfig(key.Pin, []string{tunnel.ALPN}, nil) }).Dial(r.t.Context())
	if err != nil {
		return nil, err
	}
	private, err := certs.GenerateKey()
	if err != nil {
		return nil, err
	}
	answer, err := tunnel.EnrolOver(r.t.Context(), link, private, tunnel.Enrol{Kind: tunnel.EnrolNode, GatewayID: key.GatewayID, Secret: key.Secret, Name: name}, "test")
	if err != nil {
		return nil, err
	}
	id, err := certs.ParseIdentity(answer.Identity)
	return &testNode{saved: savedOf(private, answer), id: id}, err
}

func savedOf(key ed25519.PrivateKey, e *tunnel.Enrolled) *certs.Saved {
	return &certs.Saved{Key: key, Chain: e.Chain, Roots: e.Roots, Counter: e.Counter}
}

// online gives the node its sessions, serving one store at an address.
func (r *running) online(n *testNode, c tunnel.Carrier, store string) {
	r.t.Helper()
	trust, err := n.saved.Trust()
	if err != nil {
		r.t.Fatal(err)
	}
	certificate, err := n.saved.Certificate()
	if err != nil {
		r.t.Fatal(err)
	}
	holder := new(certs.Holder)
	holder.Set(certificate)
	cfg := func() *tls.Config {
		return certs.ClientConfig(holder, func() *certs.Trust { return trust }, func(id certs.Identity) error {
			if id.Role != certs.RoleRelay {
				return errors.New("not a relay")
			}
			return nil
		}, []string{tunnel.ALPN})
	}
	verifier := grant.NewVerifier(n.id, func() *certs.Trust { return trust })
	n.node = bundle.NewNode(bundle.Config{Incarnation: 7}, func(ctx context.Context, peer string, req bundle.Request) (bundle.Socket, error) {
		from, err := certs.ParseIdentity(peer)
		if err != nil {
			return nil, err
		}
		if _, err := verifier.Verify(req.Grant, from, time.Now()); err != nil {
			return nil, &bundle.RefusedError{Reason: bundle.CodeGrantInvalid, Text: err.Error()}
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", store)
		if err != nil {
			return nil, &bundle.RefusedError{Reason: bundle.CodeStoreRefused, Text: err.Error()}
		}
		tcp := conn.(*net.TCPConn)
		return tcp, tcp.SetLinger(0)
	})
	roles := []string{tunnel.RoleControl}
	n.sessions = make(map[string]*tunnel.Session)
	if c != tunnel.QUIC {
		roles = append(roles, tunnel.RoleBulk)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var sessions sync.WaitGroup
	r.t.Cleanup(func() { n.node.Close(bundle.CodeNodeStopped); cancel(); sessions.Wait() })
	n.connect = func(role string) *tunnel.Session {
		r.t.Helper()
		link, err := r.dialer(c, cfg).Dial(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		s := tunnel.NewSession(link, tunnel.SessionConfig{
			Initiator: true,
			Hello:     tunnel.Hello{Role: role, Incarnation: "7", Stores: []tunnel.StoreInfo{{Name: "echo", Port: portOf(store), Aliases: []string{"echo.example:7777", "[2001:db8::7]:7777"}}}},
			Lane: func(ctx context.Context, s *tunnel.Session, join tunnel.Join, stream tunnel.Stream) {
				exporter, err := s.LaneExporter(stream)
				if err != nil {
					return
				}
				_ = n.node.Serve(ctx, stream, bundle.LaneInfo{Carrier: string(c), Local: n.id.String(), Peer: join.Ingress, Exporter: exporter, Express: join.Express})
			},
			Handle: func(_ context.Context, _ *tunnel.Session, typ string, _ json.RawMessage) (any, error) {
				if handle := n.handle.Load(); handle != nil {
					return (*handle)(typ)
				}
				return nil, nil
			},
		})
		if _, err := s.Start(ctx); err != nil {
			r.t.Fatal(err)
		}
		sessions.Go(func() { _ = s.Run(ctx) })
		return s
	}
	for _, role := range roles {
		n.sessions[role] = n.connect(role)
	}
	until(r.t, "the node has its lanes", func() bool {
		live := r.relay.registry.node(keyOf(n.id))
		return live != nil && live.bundle() != nil && live.bundle().Lanes() == 2
	})
}

// until polls for what no event tells.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !done(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// echoStore echoes until the end, then ends.
func echoStore(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return l.Addr().String()
}

// connect asks the ingress for a store.
func (r *running) connect(target, user, token string) (net.Conn, *bufio.Reader, *http.Response) {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.ready.Connect)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n", target, base64.StdEncoding.EncodeToString([]byte(user+":"+token)))
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		r.t.Fatal(err)
	}
	return conn, in, answer
}

// serve makes a gateway, a node with an echo store on c, and a job.
func (r *running) serve(c tunnel.Carrier) (token string) {
	r.t.Helper()
	if _, err := r.api.CreateGateway(r.t.Context(), "default", "corp"); err != nil {
		r.t.Fatal(err)
	}
	n, err := r.register(c, "corp", "n1")
	if err != nil {
		r.t.Fatal(err)
	}
	r.online(n, c, echoStore(r.t))
	job, err := r.api.CreateJob(r.t.Context(), "default", "nightly", []string{"corp/echo", "gone/echo", "corp/none"})
	if err != nil {
		r.t.Fatal(err)
	}
	return job.Token
}

func TestConnectOverEachCarrier(t *testing.T) {
	for _, c := range tunnel.Carriers {
		t.Run(string(c), func(t *testing.T) {
			r := startRelay(t, 0)
			token := r.serve(c)
			conn, in, answer := r.connect("echo.corp:0", "nightly", token)
			if answer.StatusCode != 200 {
				body, _ := io.ReadAll(answer.Body)
				t.Fatalf("%s: %s", answer.Status, body)
			}
			sent := strings.Repeat("0123456789abcdef", 1<<16)
			go func() {
				_, _ = io.WriteString(conn, sent)
				_ = conn.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(in)
			if err != nil || string(got) != sent {
				t.Fatalf("%d bytes of %d, %v", len(got), len(sent), err)
			}
			nodes, err := r.api.Nodes(t.Context(), "default", "corp")
			if err != nil || len(nodes) != 1 || nodes[0].Status != "Online" || nodes[0].Carrier != string(c) {
				t.Errorf("%+v %v", nodes, err)
			}
		})
	}
}

func TestSocks5AndPort(t *testing.T) {
	r := startRelay(t, 0)
	token := r.serve(tunnel.QUIC)
	socks, err := proxy.SOCKS5("tcp", r.ready.Socks5, &proxy.Auth{User: "nightly/run-1", Password: token}, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, _ := r.relay.registry.gateway("default", "corp")[0].store("echo")
	port := store.Port
	dials := map[string]func() (net.Conn, error){
		"socks5": func() (net.Conn, error) { return socks.Dial("tcp", "echo.corp:"+strconv.Itoa(port)) },
		"port":   func() (net.Conn, error) { return net.Dial("tcp", r.ready.Ports[0]) },
	}
	for name, dial := range dials {
		conn, err := dial()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _ = io.WriteString(conn, "there and back")
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "there and back" {
			t.Errorf("%s: %q %v", name, got, err)
		}
		_ = conn.Close()
	}
}

func TestRefusals(t *testing.T) {
	r := startRelay(t, 0)
	token := r.serve(tunnel.TLS)
	other, err := r.api.CreateJob(t.Context(), "default", "other", []string{"corp/erp"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		target, user, token string
		status              int
		code                string
	}{
		{"echo.corp:0", "nightly", "ebbjob_x", 407, "token-malformed"},
		{"echo.corp:0", "nightly", certs.Token{JobID: strings.Repeat("00", 16)}.Encode(), 407, "token-invalid"},
		{"echo.corp:0", "somebody", token, 407, "token-invalid"},
		{"echo.corp:0", "other", other.Token, 403, "job-not-allowed"},
		{"echo.nowhere:0", "nightly", token, 403, "job-not-allowed"},
		{"echo.gone:0", "nightly", token, 404, "gateway-unknown"},
		{"none.corp:0", "nightly", token, 404, "store-unknown"},
		{"echo.corp:1", "nightly", token, 404, "port-mismatch"},
		{"echo.corp.x:0", "nightly", token, 403, "job-not-allowed"},
	}
	for _, test := range tests {
		_, _, answer := r.connect(test.target, test.user, test.token)
		if answer.StatusCode != test.status || answer.Header.Get("Ebbgate-Error") != test.code {
			t.Errorf("%s as %s: %d %s, want %d %s", test.target, test.user, answer.StatusCode, answer.Header.Get("Ebbgate-Error"), test.status, test.code)
		}
	}
}

func TestRevokedJobLosesItsStreams(t *testing.T) {
	r := startRelay(t, 0)
	token := r.serve(tunnel.QUIC)
	_, in, answer := r.connect("echo.corp:0", "nightly", token)
	if answer.StatusCode != 200 {
		t.Fatal(answer.Status)
	}
	if err := r.api.RevokeJob(t.Context(), "default", "nightly"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(in); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the revoked job's stream ended with %v, want a reset", err)
	}
	if _, _, answer := r.connect("echo.corp:0", "nightly", token); answer.StatusCode != 407 {
		t.Errorf("the revoked job got %s", answer.Status)
	}
}

func TestStoppedRelayResets(t *testing.T) {
	r := startRelay(t, 0)
	token := r.serve(tunnel.TLS)
	conn, in, answer := r.connect("echo.corp:0", "nightly", token)
	if answer.StatusCode != 200 {
		t.Fatal(answer.Status)
	}
	_, _ = conn.Write([]byte("x"))
	_, _ = in.ReadByte()
	r.stop()
	if _, err := io.ReadAll(in); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("ended with %v, want a reset", err)
	}
}

func TestDrainLetsStreamsEnd(t *testing.T) {
	r := startRelay(t, time.Minute)
	token := r.serve(tunnel.TLS)
	conn, in, answer := r.connect("echo.corp:0", "nightly", token)
	if answer.StatusCode != 200 {
		t.Fatal(answer.Status)
	}
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	until(t, "the relay drains", func() bool {
		_, err := r.relay.dials.find(jobKey{"default", "nightly"}, "corp", "echo", 0, nodeKey{})
		return err != nil
	})
	_, _ = io.WriteString(conn, "still here")
	_ = conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(in); err != nil || string(got) != "still here" {
		t.Errorf("%q %v", got, err)
	}
	<-stopped
}

func TestEnrolmentRefusals(t *testing.T) {
	r := startRelay(t, 0)
	r.serve(tunnel.TLS)
	var refused *tunnel.Error
	if _, err := r.register(tunnel.TLS, "corp", "n1"); !errors.As(err, &refused) || refused.ErrCode != "node-exists" {
		t.Errorf("registered twice: %v", err)
	}
	if _, err := r.register(tunnel.TLS, "corp", "No Name"); err == nil {
		t.Error("registered with a name that is none")
	}
	keys, _ := r.api.GatewayKeys(t.Context(), "default", "corp")
	if _, err := r.api.RegenerateKey(t.Context(), "default", "corp", "key1"); err != nil {
		t.Fatal(err)
	}
	old, _ := certs.ParseKey(keys.Key1)
	link, err := r.dialer(tunnel.QUIC, func() *tls.Config { return certs.PinnedConfig(old.Pin, []string{tunnel.ALPN}, nil) }).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	private, _ := certs.GenerateKey()
	_, err = tunnel.EnrolOver(t.Context(), link, private, tunnel.Enrol{Kind: tunnel.EnrolNode, GatewayID: old.GatewayID, Secret: old.Secret, Name: "n2"}, "test")
	if !errors.As(err, &refused) || refused.ErrCode != "key-refused" {
		t.Errorf("with a key that was regenerated: %v", err)
	}
	wrong := certs.Pin{1}
	_, err = r.dialer(tunnel.TLS, func() *tls.Config { return certs.PinnedConfig(wrong, []string{tunnel.ALPN}, nil) }).Dial(t.Context())
	var dial *tunnel.DialError
	if !errors.As(err, &dial) || dial.Code() != "relay-unknown" {
		t.Errorf("with another relay's pin: %v", err)
	}
}

func TestWebsiteAndGarbage(t *testing.T) {
	r := startRelay(t, 0)
	anonymous := func() int {
		r.relay.doorkeeper.mu.Lock()
		defer r.relay.doorkeeper.mu.Unlock()
		return r.relay.doorkeeper.total
	}
	visitor, err := tls.Dial("tcp", r.ready.TLS, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := anonymous(); n != 1 {
		t.Errorf("%d connections count as anonymous, want the visitor's", n)
	}
	fmt.Fprintf(visitor, "CONNECT echo.corp:7 HTTP/1.1\r\nHost: x\r\n\r\n")
	if refused, err := http.ReadResponse(bufio.NewReader(visitor), nil); err != nil || refused.StatusCode != http.StatusProxyAuthRequired {
		t.Errorf("CONNECT over HTTPS: %v %v", refused, err)
	}
	visitor.Close()
	until(t, "the visitor's place is free", func() bool { return anonymous() == 0 })
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Get("https://" + r.ready.TLS + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	if string(body) != "ok\n" {
		t.Errorf("%q", body)
	}
	if answer.TLS.PeerCertificates[0].VerifyHostname("127.0.0.1") != nil {
		t.Error("the public certificate is not for the configured name")
	}
	conn, err := net.Dial("tcp", r.ready.TLS)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte{0, 1, 2, 3})
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("garbage was answered with %v", err)
	}
}
