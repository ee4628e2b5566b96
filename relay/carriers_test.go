package relay

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// TestEnrolmentOverEachCarrier has a newcomer, a node that comes back with its
// registered key, and a job.
func TestEnrolmentOverEachCarrier(t *testing.T) {
	r := startRelay(t, 0)
	if _, err := r.api.CreateGateway(t.Context(), "default", "corp"); err != nil {
		t.Fatal(err)
	}
	job, err := r.api.CreateJob(t.Context(), "default", "nightly", []string{"corp/echo"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := certs.ParseToken(job.Token)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range tunnel.Carriers {
		t.Run(string(c), func(t *testing.T) {
			n, err := r.register(c, "corp", "node-"+string(c))
			if err != nil {
				t.Fatal(err)
			}
			enrol := func(key ed25519.PrivateKey, req tunnel.Enrol) string {
				link, err := r.dialer(c, func() *tls.Config { return certs.PinnedConfig(token.Pin, []string{tunnel.ALPN}, nil) }).Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if link.Carrier() != c {
					t.Errorf("over %s", link.Carrier())
				}
				answer, err := tunnel.EnrolOver(t.Context(), link, key, req, "test")
				if err != nil {
					t.Fatal(err)
				}
				if want := (tunnel.Ports{TLS: portOf(r.ready.TLS), QUIC: portOf(r.ready.QUIC), HTTP: portOf(r.ready.HTTP)}); answer.Ports != want {
					t.Errorf("ports %+v, want %+v", answer.Ports, want)
				}
				return answer.Identity
			}
			if id := enrol(n.saved.Key, tunnel.Enrol{Kind: tunnel.EnrolReturn, Identity: n.id.String()}); id != n.id.String() {
				t.Errorf("came back as %s", id)
			}
			key, err := certs.GenerateKey()
			if err != nil {
				t.Fatal(err)
			}
			want := certs.Identity{TrustDomain: n.id.TrustDomain, Role: certs.RoleJob, Tenant: "default", Name: "nightly"}
			if id := enrol(key, tunnel.Enrol{Kind: tunnel.EnrolJob, JobID: token.JobID, Secret: token.Secret}); id != want.String() {
				t.Errorf("the job is %s", id)
			}
		})
	}
}

// TestManyStreamsOverEachCarrier echoes on 500 streams at once.
func TestManyStreamsOverEachCarrier(t *testing.T) {
	const streams, size = 500, 20_000
	for _, c := range tunnel.Carriers {
		t.Run(string(c), func(t *testing.T) {
			r := startRelay(t, 0)
			proof := base64.StdEncoding.EncodeToString([]byte("nightly:" + r.serve(c)))
			var group errgroup.Group
			for i := range streams {
				group.Go(func() error {
					conn, err := net.Dial("tcp", r.ready.Connect)
					if err != nil {
						return err
					}
					defer conn.Close()
					fmt.Fprintf(conn, "CONNECT echo.corp:0 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n", proof)
					in := bufio.NewReader(conn)
					answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
					if err != nil || answer.StatusCode != http.StatusOK {
						return fmt.Errorf("stream %d: %v %w", i, answer, err)
					}
					sent := bytes.Repeat(fmt.Appendf(nil, "%08d", i), size/8)
					go func() {
						_, _ = conn.Write(sent)
						_ = conn.(*net.TCPConn).CloseWrite()
					}()
					if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, sent) {
						return fmt.Errorf("stream %d: %d bytes of %d: %w", i, len(got), len(sent), err)
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPlainPort asks the port without TLS for what it does not serve.
func TestPlainPort(t *testing.T) {
	r := startRelay(t, 0)
	for request, status := range map[string]int{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                               404,
		"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":                        404,
		"GET http://x/v1/gateways HTTP/1.1\r\nHost: x\r\n\r\n":            404,
		"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n":  404,
		"CONNECT echo.corp:7 HTTP/1.1\r\nHost: echo.corp:7\r\n\r\n":       405,
		"GET /tunnel HTTP/1.1\r\nHost: x\r\n\r\n":                         426,
		"GET http://x/tunnel HTTP/1.1\r\nHost: x\r\n\r\n":                 426,
		"\x16\x03\x01\x00\x05hello":                                       400,
		"GET /tunnel HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n": 501,
	} {
		conn, err := net.Dial("tcp", r.ready.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(conn, request)
		if request[0] == 0x16 {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != status {
			t.Errorf("%.40q: %v %v, want %d", request, answer, err, status)
		}
		_ = conn.Close()
	}
}

// TestWebSocketsAreAnonymousUntilTheirHello looks at the doorkeeper's count.
func TestWebSocketsAreAnonymousUntilTheirHello(t *testing.T) {
	r := startRelay(t, 0)
	count := func() int {
		r.relay.doorkeeper.mu.Lock()
		defer r.relay.doorkeeper.mu.Unlock()
		return r.relay.doorkeeper.total
	}
	if _, err := r.api.CreateGateway(t.Context(), "default", "corp"); err != nil {
		t.Fatal(err)
	}
	for i, c := range []tunnel.Carrier{tunnel.WSS, tunnel.WS} {
		n, err := r.register(c, "corp", "node-"+string(c))
		if err != nil {
			t.Fatal(err)
		}
		until(t, "nobody is anonymous", func() bool { return count() == 0 })
		link, err := r.dialer(c, func() *tls.Config {
			return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{tunnel.ALPN}}
		}).Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := count(); got != 1 {
			t.Errorf("%s: %d are anonymous before the hello, want 1", c, got)
		}
		_ = link.Close("test over")
		until(t, "the place is free", func() bool { return count() == 0 })
		r.online(n, c, echoStore(t))
		if got := count(); got != 0 {
			t.Errorf("%s: %d are anonymous after %d hellos", c, got, 2*(i+1))
		}
	}
}
