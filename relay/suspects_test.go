package relay

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

func TestSuspects(t *testing.T) {
	var s suspects
	now := time.Now()
	for i := range maxBadTokens {
		if s.bad("192.0.2.1:1000", now) {
			t.Fatalf("after %d", i)
		}
		s.bad(fmt.Sprintf("[2001:db8::%x]:1", i), now)
	}
	for peer, want := range map[string]bool{
		"192.0.2.1:2":          true,
		"[::ffff:192.0.2.1]:2": true,
		"192.0.2.2:2":          false,
		"[2001:db8::ffff]:2":   true,
		"[2001:db8:0:1::1]:2":  false,
	} {
		if got := s.bad(peer, now); got != want {
			t.Errorf("%s: %v", peer, got)
		}
	}
	if s.bad("192.0.2.1:2", now.Add(suspicion+1)) {
		t.Error("it is never forgotten")
	}
	for i := range 3 * maxSuspects {
		s.bad(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), now.Add(suspicion+1))
	}
	if n := len(s.count); n > maxSuspects {
		t.Errorf("%d sources are remembered", n)
	}
}

// Who shows bad tokens again and again has to connect for each; a good token is
// taken from the same address.
func TestManyBadTokens(t *testing.T) {
	r := startRelay(t, 0)
	token := r.serve(tunnel.TLS)
	conn, err := net.Dial("tcp", r.ready.Connect)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	proof := base64.StdEncoding.EncodeToString([]byte("nightly:" + token + "x"))
	bad := func() (*http.Response, error) {
		fmt.Fprintf(conn, "CONNECT echo.corp:0 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n", proof)
		return http.ReadResponse(in, &http.Request{Method: "GET"})
	}
	for range maxBadTokens {
		answer, err := bad()
		if err != nil || answer.StatusCode != http.StatusProxyAuthRequired || answer.Close {
			t.Fatal(answer, err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
	}
	answer, err := bad()
	if err != nil || answer.StatusCode != http.StatusProxyAuthRequired || !answer.Close || answer.Header.Get("Ebbgate-Error") != "token-malformed" {
		t.Fatal(answer, err)
	}
	if _, _, answer := r.connect("echo.corp:0", "nightly", token); answer.StatusCode != 200 {
		t.Errorf("a good token: %s", answer.Status)
	}
}
