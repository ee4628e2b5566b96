//go:build linux

package storms

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// How many dials come with a wrong token.
const (
	badConnects = 90000
	badSocks    = 10000
)

// TestBadTokens dials 100,000 times with tokens that are wrong in every way, as fast as it can. Each is refused and
// counted; the log does not grow with them, and who has a token gets through.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := newPath(ctx, t, "quic", limits{})
	m := newMeter(ctx, t, p)
	good, err := certs.ParseToken(p.token)
	if err != nil {
		t.Fatal(err)
	}
	bad := []struct{ token, reason string }{
		{certs.Token{JobID: good.JobID, Secret: certs.NewSecret(), Pin: good.Pin}.Encode(), "token-invalid"},
		{certs.Token{JobID: "00112233445566778899aabbccddeeff", Secret: certs.NewSecret(), Pin: good.Pin}.Encode(), "token-invalid"},
		{certs.Token{JobID: good.JobID, Secret: certs.NewSecret(), Pin: certs.Pin{1}}.Encode(), "token-invalid"},
		{p.token[:len(p.token)-1], "token-malformed"},
		{"x", "token-malformed"},
	}
	var attack sync.WaitGroup
	const connections = 30
	for i := range connections {
		attack.Go(func() {
			b := bad[i%len(bad)]
			if err := badConnect(p.relay.Connect, b.token, b.reason, scaled(badConnects)/connections); err != nil {
				t.Errorf("%s over CONNECT: %v", b.reason, err)
			}
		})
	}
	for i := range 10 {
		attack.Go(func() {
			b := bad[i%len(bad)]
			for range scaled(badSocks) / 10 {
				if err := badSocks5(p.relay.Socks5, b.token); err != nil {
					t.Errorf("%s over SOCKS 5: %v", b.reason, err)
					return
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { attack.Wait(); close(over) }()
	logged := len(p.relay.Output())
	for going := true; going; {
		select {
		case <-over:
			going = false
		default:
			p.dial(ctx, t)
			p.talk(ctx, t)
		}
	}
	m.grew(ctx, t, `ebbgate_ingress_requests_total{reason="token-invalid"}`, scaled(badConnects+badSocks)*3/5)
	m.grew(ctx, t, `ebbgate_ingress_requests_total{reason="token-malformed"}`, scaled(badConnects+badSocks)*2/5)
	if grew := len(p.relay.Output()) - logged; grew > 2<<20 {
		t.Errorf("the log grew by %d bytes", grew)
	}
	t.Logf("%d legitimate dials meanwhile", p.said)
	m.settle(ctx, t)
}

// badConnect dials so many times, over one connection as long as the ingress lets it.
func badConnect(addr, token, reason string, times int) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	again := func() error {
		_ = conn.(*net.TCPConn).SetLinger(0) // so that ports do not run out
		_ = conn.Close()
		if conn, err = net.Dial("tcp", addr); err == nil {
			in.Reset(conn)
		}
		return err
	}
	proof := base64.StdEncoding.EncodeToString([]byte(job + ":" + token))
	request := "CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\nProxy-Authorization: Basic " + proof + "\r\n\r\n"
	for i := range times {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, request); err != nil {
			return fmt.Errorf("dial %d: %w", i, err)
		}
		answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
		if err != nil {
			return fmt.Errorf("dial %d: %w", i, err)
		}
		_, err = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		if code := answer.Header.Get("Ebbgate-Error"); err != nil || answer.StatusCode != http.StatusProxyAuthRequired || code != reason {
			return fmt.Errorf("dial %d: %d %s: %w", i, answer.StatusCode, code, err)
		}
		if answer.Close {
			if err := again(); err != nil {
				return fmt.Errorf("dial %d: %w", i, err)
			}
		}
	}
	return nil
}

// badSocks5 dials once.
func badSocks5(addr, token string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.(*net.TCPConn).SetLinger(0) // so that ports do not run out
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, "\x05\x01\x02\x01"+string(byte(len(job)))+job+string(rune(len(token)))+token)
	if err != nil {
		return err
	}
	var answer [4]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer != [4]byte{5, 2, 1, 1} {
		return fmt.Errorf("answered % x", answer)
	}
	return nil
}
