package rig

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Dialer dials numeric addresses; *lab.Host is one.
type Dialer interface {
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
}

// Ingress is a CONNECT ingress as a job uses it.
type Ingress struct {
	Addr       string
	Job, Token string
	From       Dialer // nil: this machine
}

// ConnectError is any answer to CONNECT but 200.
type ConnectError struct {
	Status int
	Code   string // of the header Ebbgate-Error
	Body   string
	Header http.Header
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("rig: CONNECT: %d %s: %s", e.Status, e.Code, e.Body)
}

// Dial opens a stream to host:port, where the host is STORE.GATEWAY and the port the store's or 0. The connection
// has linger 0. An answer other than 200 is a *ConnectError.
func (i Ingress) Dial(ctx context.Context, target string) (*net.TCPConn, error) {
	var (
		conn net.Conn
		err  error
	)
	if i.From != nil {
		conn, err = i.From.Dial(ctx, "tcp", i.Addr)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", i.Addr)
	}
	if err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	tcp := conn.(*net.TCPConn)
	if err := i.connect(ctx, tcp, target); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return tcp, nil
}

func (i Ingress) connect(ctx context.Context, conn socket, target string) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetLinger(0)
	request := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if i.Token != "" {
		proof := base64.StdEncoding.EncodeToString([]byte(i.Job + ":" + i.Token))
		request += "Proxy-Authorization: Basic " + proof + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return fmt.Errorf("rig: CONNECT: %w", err)
	}
	// One byte at a time: what follows the answer is the stream's.
	answer, err := http.ReadResponse(bufio.NewReaderSize(&oneByte{r: conn}, 16), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("rig: CONNECT: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	return &ConnectError{
		Status: answer.StatusCode, Code: answer.Header.Get("Ebbgate-Error"), Body: string(body), Header: answer.Header,
	}
}

// oneByte reads one byte at a time.
type oneByte struct{ r io.Reader }

func (o *oneByte) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return o.r.Read(p)
}
