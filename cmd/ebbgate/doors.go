package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/client"
	"github.com/ebbgate/ebbgate/relay/ingress"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// doors are the proxies that exec's command is given: the relay's own ingresses,
// on loopback in this process, with streams that the client opens. Only who knows
// their password, which is new in each process, gets in.
type doors struct {
	client   *client.Client
	tally    *client.Tally
	password string
	connect  *ingress.Connect
	socks5   *ingress.Socks5
	http     *ingress.Listener
	socks    *ingress.Listener
	serving  context.Context // ends when streams are broken off; set before Serve
}

const doorUser = "exec"

func newDoors(ctx context.Context, c *client.Client, tally *client.Tally, log *slog.Logger) (*doors, error) {
	d := &doors{client: c, tally: tally, password: rand.Text()}
	d.connect = ingress.NewConnect(d, log, nil)
	d.socks5 = ingress.NewSocks5(d, log, nil)
	var err error
	if d.http, err = ingress.Listen(ctx, "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if d.socks, err = ingress.Listen(ctx, "127.0.0.1:0"); err != nil {
		_ = d.http.Close()
		return nil, err
	}
	return d, nil
}

func (d *doors) close() {
	_ = d.http.Close()
	_ = d.socks.Close()
}

// serve serves until serving ends.
func (d *doors) serve(serving context.Context, group *errgroup.Group) {
	d.serving = serving
	group.Go(func() error { return d.connect.Serve(serving, d.http) })
	group.Go(func() error { return d.socks5.Serve(serving, d.socks) })
}

// drain lets nobody in any more once it is told to, and waits for the streams.
// They end by themselves or when serving ends; nothing outlasts that.
func (d *doors) drain(serving context.Context, told <-chan struct{}) error {
	select {
	case <-told:
	case <-serving.Done():
	}
	lasting := context.WithoutCancel(serving)
	return errors.Join(d.connect.Drain(lasting), d.socks5.Drain(lasting))
}

// environment leads a program to the doors: the variables of curl, which most
// programs know in one spelling or the other.
func (d *doors) environment(lookup func(string) string, direct []string) (env []string) {
	auth := doorUser + ":" + d.password + "@"
	web, socks := "http://"+auth+d.http.Addr().String(), "socks5h://"+auth+d.socks.Addr().String()
	var around []string
	for _, list := range []string{lookup("NO_PROXY"), lookup("no_proxy"), strings.Join(direct, ","), "localhost,127.0.0.1,::1"} {
		for host := range strings.SplitSeq(list, ",") {
			if host = strings.TrimSpace(host); host != "" && !contains(around, host) {
				around = append(around, host)
			}
		}
	}
	for _, v := range [...][2]string{{"HTTPS_PROXY", web}, {"HTTP_PROXY", web}, {"ALL_PROXY", socks}, {"NO_PROXY", strings.Join(around, ",")}} {
		env = append(env, v[0]+"="+v[1], strings.ToLower(v[0])+"="+v[1])
	}
	return env
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if strings.EqualFold(have, s) {
			return true
		}
	}
	return false
}

// doorError is what a command is told that these doors do not let through.
type doorError struct {
	code, hop, message, advice string
	err                        error
}

func (e *doorError) Error() string { return e.message }

// Unwrap is the cause.
func (e *doorError) Unwrap() error { return e.err }

// Code names the error.
func (e *doorError) Code() string { return e.code }

// Hop names where it happened.
func (e *doorError) Hop() string { return e.hop }

// Advice says what to do.
func (e *doorError) Advice() string { return e.advice }

// explained adds to the relay's refusal what only exec knows: the command may
// have meant a host that is no store at all.
func explained(err error) error {
	coded, ok := errors.AsType[interface {
		error
		Code() string
		Advice() string
	}](err)
	if !ok || coded.Code() != "job-not-allowed" {
		return err
	}
	return &doorError{
		code: coded.Code(), hop: "relay", message: err.Error(), err: err,
		advice: coded.Advice() + "\nif it is no store, but a host that the command reaches by itself: ebbgate exec --no-proxy HOST",
	}
}

// Authenticate implements ingress.Dialer.
func (d *doors) Authenticate(_ context.Context, name, token, _ string) (ingress.Job, error) {
	if subtle.ConstantTimeCompare([]byte(token), []byte(d.password)) != 1 || name != "" && name != doorUser {
		return ingress.Job{}, &doorError{
			code: "token-invalid", hop: "config", message: "this proxy belongs to one command of ebbgate exec",
			advice: "take user and password out of the command's HTTPS_PROXY or ALL_PROXY",
		}
	}
	return ingress.Job{Name: doorUser}, nil
}

// Dial implements ingress.Dialer.
func (d *doors) Dial(ctx context.Context, _ ingress.Job, target ingress.Target, _ net.Addr) (ingress.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, client.DefaultDialTimeout)
	defer cancel()
	defer context.AfterFunc(d.serving, cancel)()
	at := client.Target{Host: target.Host, Port: target.Port}
	stream, err := d.client.Open(ctx, at)
	if err != nil {
		d.tally.Refused(at)
		return nil, explained(err)
	}
	return doorStream{stream, d}, nil
}

// doorStream is a stream that is counted.
type doorStream struct {
	*client.Stream
	doors *doors
}

// Carry implements ingress.Stream.
func (s doorStream) Carry(sock bundle.Socket, prefix []byte) bundle.Report {
	return s.doors.tally.Carry(s.doors.serving, s.Stream, sock, prefix)
}
