package tunnel

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clientHello is what crypto/tls sends first.
func clientHello(t testing.TB, protocols ...string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: "relay.example.com", NextProtos: protocols, InsecureSkipVerify: true}).Handshake()
	}()
	defer a.Close()
	header := make([]byte, 5)
	if _, err := io.ReadFull(b, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(header, body...)
}

// inRecords cuts one record into several.
func inRecords(record []byte, size int) (out []byte) {
	for body := record[5:]; len(body) > 0; {
		n := min(size, len(body))
		out = append(out, 22, 3, 1, byte(n>>8), byte(n))
		out = append(out, body[:n]...)
		body = body[n:]
	}
	return out
}

const testLaneToken = "0123456789abcdef0123456789abcdef"

func TestPeek(t *testing.T) {
	session := clientHello(t, ALPN)
	tests := []struct {
		name   string
		sent   []byte
		kind   Kind
		reason string
	}{
		{"session", session, KindSession, ""},
		{"session among others", clientHello(t, "h2", ALPN), KindSession, ""},
		{"session in many records", inRecords(session, 100), KindSession, ""},
		{"lane", clientHello(t, ALPNLane, testLaneToken), KindLane, ""},
		{"lane without a token", clientHello(t, ALPNLane), "", "garbage"},
		{"lane with a short token", clientHello(t, ALPNLane, "0123"), "", "garbage"},
		{"lane with two tokens", clientHello(t, ALPNLane, testLaneToken, testLaneToken), "", "garbage"},
		{"browser", clientHello(t, "h2", "http/1.1"), KindTLS, ""},
		{"no ALPN", clientHello(t), KindTLS, ""},
		{"client's lane", []byte("EBBLANE 0123\n"), KindClientLane, ""},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), KindHTTP, ""},
		{"HTTP that begins alike", []byte("EBBX / HTTP/1.1\r\n"), KindHTTP, ""},
		{"zeros", make([]byte, 100), "", "garbage"},
		{"SSH", []byte("ssh"), "", "garbage"},
		{"an alert", []byte{21, 3, 3, 0, 2, 1, 0}, "", "garbage"},
		{"a record of another handshake message", []byte{22, 3, 3, 0, 4, 2, 0, 0, 0}, "", "garbage"},
		{"an empty record", []byte{22, 3, 3, 0, 0}, "", "garbage"},
		{"an endless ClientHello", []byte{22, 3, 3, 0, 4, 1, 0xff, 0xff, 0xff}, "", "too-long"},
		{"a hello that contradicts itself", append([]byte{22, 3, 3, 0, 44, 1, 0, 0, 40}, bytes.Repeat([]byte{0xff}, 40)...), "", "garbage"},
		{"half a ClientHello", session[:len(session)/2], "", "silence"},
		{"silence", nil, "", "silence"},
		{"half a word", []byte("EBB"), "", "silence"},
	}
	for _, test := range tests {
		for _, piece := range []int{1 << 20, 1} {
			t.Run(test.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := net.Pipe()
					var writer sync.WaitGroup
					defer writer.Wait()
					defer a.Close()
					defer b.Close()
					writer.Go(func() {
						for sent := test.sent; len(sent) > 0; {
							n, err := a.Write(sent[:min(piece, len(sent))])
							if err != nil {
								return
							}
							sent = sent[n:]
							time.Sleep(time.Millisecond)
						}
					})
					start := time.Now()
					kind, again, err := Peek(b, 10*time.Second)
					if test.reason != "" {
						var bad *PeekError
						if !errors.As(err, &bad) || bad.Reason != test.reason {
							t.Fatalf("%v, want %s", err, test.reason)
						}
						if took := time.Since(start); took > 10*time.Second {
							t.Errorf("took %v", took)
						}
						return
					}
					if err != nil || kind != test.kind {
						t.Fatalf("%q %v, want %q", kind, err, test.kind)
					}
					if kind == KindLane && again.Token != testLaneToken {
						t.Errorf("token %q", again.Token)
					}
					got := make([]byte, len(test.sent))
					if _, err := io.ReadFull(again, got); err != nil || !bytes.Equal(got, test.sent) {
						t.Errorf("the bytes did not come again: %v", err)
					}
				})
			})
		}
	}
}

// TestClientLane: the line is taken, what follows it is left.
func TestClientLane(t *testing.T) {
	for _, test := range []struct {
		sent, token string
		express     bool
		rest        string
	}{
		{"EBBLANE " + testLaneToken + "b\nrest", testLaneToken, false, "rest"},
		{"EBBLANE " + testLaneToken + "e\n", testLaneToken, true, ""},
		{"EBBLANE " + testLaneToken + "x\n", "", false, ""},
		{"EBBLANE " + testLaneToken + "0b\n", "", false, ""},
		{"EBBLANE 0123b\n", "", false, ""},
		{"EBBLANE " + testLaneToken, "", false, ""},
	} {
		a, b := net.Pipe()
		taken := make(chan struct{}) // a pipe whose far end is closed takes no deadlines
		go func() { _, _ = a.Write([]byte(test.sent)); <-taken; _ = a.Close() }()
		_, peeked, err := Peek(b, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if test.token == "" {
			close(taken) // nothing more comes
		}
		token, express, err := peeked.ClientLane(10 * time.Second)
		if test.token != "" {
			close(taken)
		}
		if token != test.token || express != test.express || (err == nil) != (test.token != "") {
			t.Errorf("%q: token %q, express %v, %v", test.sent, token, express, err)
		}
		if err == nil {
			rest, bare := peeked.Bare()
			more, _ := io.ReadAll(bare)
			if got := string(rest) + string(more); got != test.rest {
				t.Errorf("%q: left is %q", test.sent, got)
			}
		}
		_ = b.Close()
	}
}

func FuzzPeek(f *testing.F) {
	f.Add(clientHello(f, ALPN))
	f.Add(inRecords(clientHello(f, ALPNLane, "x"), 7))
	f.Add([]byte("EBBLANE x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, c := net.Pipe()
		go func() { _, _ = a.Write(b); a.Close() }()
		kind, again, err := Peek(c, 10*time.Second)
		if err == nil {
			got, _ := io.ReadAll(again)
			if !bytes.Equal(got, b) {
				t.Errorf("%q: %d of %d bytes came again", kind, len(got), len(b))
			}
		}
		c.Close()
	})
}

// FuzzClientLane: of what begins like a client's lane, the line is taken where it
// has a token, and nothing of what follows.
func FuzzClientLane(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		conn, gone := saying(b)
		defer gone.Wait()
		defer conn.Close()
		kind, peeked, err := Peek(conn, time.Minute)
		if err != nil || kind != KindClientLane {
			return
		}
		token, express, err := peeked.ClientLane(time.Minute)
		if err != nil {
			return
		}
		rest, bare := peeked.Bare()
		more, _ := io.ReadAll(bare)
		end := laneBulk
		if express {
			end = laneExpress
		}
		if got := clientLanePrefix + token + end + string(rest) + string(more); got != string(b) || len(token) != tokenSize {
			t.Errorf("%q: token %q, then %q", b, token, string(rest)+string(more))
		}
	})
}
