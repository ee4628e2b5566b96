package rig

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
)

// socket is a connection as an ingress and a job use it.
type socket interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// SecureConn is a job's connection with TLS that is strict about ends: the far end's is its close_notify, a FIN without
// one is an error. With linger 0, Close resets the connection and says no close_notify.
type SecureConn struct {
	*tls.Conn
	tcp     *net.TCPConn
	orderly atomic.Bool
}

// DialSecure does what Dial does at an ingress with TLS, whatever certificate that shows.
func (i Ingress) DialSecure(ctx context.Context, target string) (*SecureConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", i.Addr)
	if err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	tcp := conn.(*net.TCPConn)
	c := &SecureConn{Conn: tls.Client(strictEnd{tcp}, &tls.Config{InsecureSkipVerify: true}), tcp: tcp}
	if err := i.connect(ctx, c, target); err != nil {
		_ = tcp.Close()
		return nil, err
	}
	return c, nil
}

// SetLinger is TCP's.
func (c *SecureConn) SetLinger(sec int) error {
	c.orderly.Store(sec != 0)
	return c.tcp.SetLinger(sec)
}

// Close closes the connection.
func (c *SecureConn) Close() error {
	if c.orderly.Load() {
		return c.Conn.Close()
	}
	return c.tcp.Close()
}

// EndTCP sends a FIN and no close_notify.
func (c *SecureConn) EndTCP() error { return c.tcp.CloseWrite() }

// strictEnd tells a bare FIN from an end.
type strictEnd struct{ net.Conn }

// errBareFIN is a FIN without close_notify.
var errBareFIN = errors.New("rig: a FIN without close_notify")

func (s strictEnd) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errBareFIN
	}
	return n, err
}
