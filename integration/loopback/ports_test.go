package loopback

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// freed is how long a connection that says nothing useful may last, with some slack for a busy machine.
const freed = 10*time.Second + 1500*time.Millisecond

// stranger talks to a port and never becomes anybody.
type stranger struct {
	name string
	talk func(net.Conn) error // an error means that the port has hung up already, which is fine
}

func strangers(t *testing.T) []stranger {
	t.Helper()
	hello := clientHello(t)
	say := func(b []byte) func(net.Conn) error {
		return func(c net.Conn) error {
			_, err := c.Write(b)
			return err
		}
	}
	garbage := make([]byte, 4<<10)
	_, _ = rand.Read(garbage)
	garbage[0] = 0xff // neither a TLS record nor a letter
	return []stranger{
		{"silence", func(net.Conn) error { return nil }},
		{"garbage", say(garbage)},
		{"half a ClientHello", say(hello[:len(hello)/2])},
		{"a ClientHello and silence", say(hello)},
		{"a record of 16 KiB that never comes", say([]byte{22, 3, 1, 0x40, 0})},
		{"zeroes", say(make([]byte, 64<<10))},
		{"half a request", say([]byte("GET / HTTP/1.1\r\nHost:"))},
		{"half a lane", say([]byte("EBBLANE "))},
		{"a lane that does not exist", say([]byte("EBBLANE 00000000000000000000000000000000\n"))},
		{"a byte each second", func(c net.Conn) error { return drip(c, hello) }},
		{"a session that says no hello", func(c net.Conn) error { return shake(c, "ebbgate/1") }},
		{"a lane over TLS with no token", func(c net.Conn) error { return shake(c, "ebbgate-lane/1") }},
		{"HTTPS without a request", func(c net.Conn) error { return shake(c, "http/1.1") }},
	}
}

// clientHello returns a ClientHello for a session.
func clientHello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	go func() {
		_ = tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"ebbgate/1"}, ServerName: "relay"}).Handshake()
	}()
	buf := make([]byte, 16<<10)
	n, err := far.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_ = near.Close()
	return buf[:n]
}

func drip(c net.Conn, b []byte) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return err
		}
		<-tick.C
	}
	return nil
}

// shake completes a TLS handshake if the port lets it.
func shake(c net.Conn, alpn string) error {
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}, ServerName: "relay"}).Handshake()
}

// TestStrangers has many strangers at each port at once. Each is freed in time, and meanwhile jobs get through.
func TestStrangers(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	var talking sync.WaitGroup
	for _, port := range []struct{ name, network, addr string }{
		{"tls", "tcp", c.relay.TLS},
		{"connect", "tcp", c.relay.Connect},
		{"admin", "unix", filepath.Join(c.relay.Dir, "state", "admin.sock")},
	} {
		for _, s := range strangers(t) {
			for range 5 {
				talking.Go(func() {
					if err := meet(ctx, port.network, port.addr, s); err != nil {
						t.Errorf("%s at port %s: %v", s.name, port.name, err)
					}
				})
			}
		}
	}
	talking.Go(func() {
		if err := flood(ctx, c.relay.QUIC); err != nil {
			t.Errorf("garbage at port quic: %v", err)
		}
	})
	for i := range 20 {
		began := time.Now()
		err := c.copyObject(ctx)
		if took := time.Since(began); err != nil || took > 3*time.Second {
			t.Errorf("job %d took %v: %v", i, took, err)
		}
	}
	talking.Wait()
	if err := c.copyObject(ctx); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// copyObject reads a small object.
func (c *company) copyObject(ctx context.Context) error {
	conn, err := c.dial(ctx, "connect")
	if err != nil {
		return err
	}
	s := oracle.Scenario{
		Job:     oracle.Job{Script: oracle.Script{Seed: 1, Send: 100_000, End: oracle.EndFIN}, End: oracle.EndFIN},
		Content: []oracle.Kind{oracle.KindComplete},
	}
	return s.Run(ctx, conn, c.store)
}

// meet lets a stranger talk, and waits until the port hangs up.
func meet(ctx context.Context, network, addr string, s stranger) error {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	began := time.Now()
	_ = conn.SetDeadline(began.Add(freed))
	talked := make(chan error, 1)
	go func() { talked <- s.talk(conn) }()
	if s.name == "a session that says no hello" || s.name == "a lane over TLS with no token" || s.name == "HTTPS without a request" {
		<-talked // the handshake reads the answers itself
	}
	_, err = io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("still open after %v", time.Since(began).Round(time.Millisecond))
	}
	if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return nil
}

// flood sends datagrams that are not QUIC, and some that look like it.
func flood(ctx context.Context, addr string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	initial := append([]byte{0xc3, 0, 0, 0, 1, 8}, bytes.Repeat([]byte{7}, 1300)...)
	for i := range 5000 {
		b := make([]byte, 1+i%1400)
		_, _ = rand.Read(b)
		if i%3 == 0 {
			b = initial
			_, _ = rand.Read(b[6:])
		}
		if _, err := conn.Write(b); err != nil && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
	}
	return nil
}
