//go:build linux

package storms

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// strangers are how many break off a handshake in each way.
const strangers = 300

// TestHandshakes has peers that break off their handshake: that show no certificate and say nothing more, that stop
// after half a ClientHello or after all of it. All are freed and counted, over TCP and QUIC.
func TestHandshakes(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := newPath(ctx, t, "tls", limits{})
	m := newMeter(ctx, t, p)
	hello := clientHello(t, "ebbgate/1")
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"ebbgate/1"}, ServerName: "relay"}
	silent := `ebbgate_relay_connections_total{kind="silence"}`
	failed := `ebbgate_relay_connections_total{kind="handshake-failed"}`
	late := `ebbgate_relay_sessions_ended_total{reason="hello-timeout"}`
	ways := []struct {
		name  string
		begin func(net.Conn) error
		ends  string
	}{
		{"half a ClientHello", func(c net.Conn) error { return write(c, hello[:len(hello)/2]) }, silent},
		{"a ClientHello", func(c net.Conn) error { return write(c, hello) }, failed},
		{"a ClientHello and garbage", func(c net.Conn) error { return write(c, append(hello[:len(hello):len(hello)], make([]byte, 100)...)) }, failed},
		{"no certificate", func(c net.Conn) error { return tls.Client(c, config).HandshakeContext(ctx) }, late},
	}
	want := make(map[string]int)
	var all sync.WaitGroup
	for _, way := range ways {
		want[way.ends] += strangers
		for range strangers {
			all.Go(func() {
				if err := meet(p.relay.TLS, way.begin); err != nil {
					t.Errorf("%s: %v", way.name, err)
				}
			})
		}
	}
	want[late] += strangers * 3 / 4
	dialling := make(chan struct{}, 16) // the library drops what comes faster than it is accepted
	for range strangers {
		all.Go(func() {
			if err := meetQUIC(ctx, p.relay.QUIC, config, dialling); err != nil {
				t.Errorf("no certificate over QUIC: %v", err)
			}
		})
	}
	for _, carrier := range []string{"tls", "quic", "wss"} {
		p.newcomer(ctx, t, carrier)
	}
	p.dial(ctx, t)
	p.talk(ctx, t)
	all.Wait()
	for name, n := range want {
		m.grew(ctx, t, name, n)
	}
	p.talk(ctx, t)
	m.settle(ctx, t)
}

func write(c net.Conn, b []byte) error {
	_, err := c.Write(b)
	return err
}

// meet begins something on a connection and waits until it is freed.
func meet(addr string, begin func(net.Conn) error) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if err := begin(conn); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	_, err = io.Copy(io.Discard, conn)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		return fmt.Errorf("not freed: %w", err)
	}
	return nil
}

// meetQUIC completes a handshake without a certificate and waits until the connection is over.
func meetQUIC(ctx context.Context, addr string, config *tls.Config, dialling chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	dialling <- struct{}{}
	conn, err := quic.DialAddr(ctx, addr, config, &quic.Config{KeepAlivePeriod: time.Second, MaxIdleTimeout: time.Minute, HandshakeIdleTimeout: time.Minute})
	<-dialling
	if err != nil {
		return err
	}
	select {
	case <-conn.Context().Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("not freed: %w", ctx.Err())
	}
}
