package relay

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

// connectHTTPS asks the ingress at the TLS port for the echo store.
func (r *running) connectHTTPS(token string) (net.Conn, *bufio.Reader) {
	r.t.Helper()
	conn := r.proxy("https")
	fmt.Fprintf(conn, "CONNECT echo.corp:0 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n", base64.StdEncoding.EncodeToString([]byte("nightly:"+token)))
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil || answer.StatusCode != 200 {
		r.t.Fatal(answer, err)
	}
	return conn, in
}

// A stream at the TLS port counts as no stranger, outlives a drain, and is reset,
// not ended, by a relay that stops.
func TestHTTPSStreams(t *testing.T) {
	for name, drain := range map[string]time.Duration{"drain": time.Minute, "stop": 0} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, drain)
			token := r.serve(tunnel.TLS)
			conn, in := r.connectHTTPS(token)
			until(t, "nobody is a stranger", func() bool {
				r.relay.doorkeeper.mu.Lock()
				defer r.relay.doorkeeper.mu.Unlock()
				return r.relay.doorkeeper.total == 0
			})
			stopped := make(chan struct{})
			go func() { r.stop(); close(stopped) }()
			if name == "drain" {
				until(t, "the relay drains", func() bool {
					_, err := r.relay.dials.find(jobKey{"default", "nightly"}, "corp", "echo", 0, nodeKey{})
					return err != nil
				})
				_, _ = io.WriteString(conn, "still here")
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			}
			got, err := io.ReadAll(in)
			if name == "drain" && (err != nil || string(got) != "still here") {
				t.Errorf("%q %v", got, err)
			}
			if name == "stop" && err == nil {
				t.Error("a relay that stopped looks like an end")
			}
			<-stopped
		})
	}
}

// TestAuthoritiesVerifyThePublicCertificate: what the API gives of the CA is what a
// job's program needs at the TLS port.
func TestAuthoritiesVerifyThePublicCertificate(t *testing.T) {
	r := startRelay(t, 0)
	list, err := r.api.Authorities(t.Context())
	if err != nil || len(list) != 1 || !list[0].Signs || list[0].Generation != 1 || list[0].Until.Before(time.Now()) {
		t.Fatalf("%+v, %v", list, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(list[0].Certificate)) {
		t.Fatal(list[0].Certificate)
	}
	conn, err := tls.Dial("tcp", r.ready.TLS, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}
