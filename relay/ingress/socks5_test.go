package ingress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

type server interface {
	Serve(ctx context.Context, l *Listener) error
	Drain(ctx context.Context) error
}

// startServer runs an ingress on loopback.
func startServer(t *testing.T, relay *fakeRelay, s server) (address string) {
	t.Helper()
	relay.targets, relay.jobs = make(chan Target, 10), make(chan Job, 10)
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { over <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
		drain, stop := context.WithTimeout(context.Background(), 30*time.Second)
		defer stop()
		if err := s.Drain(drain); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

const (
	greeting = "\x05\x01\x02"
	login    = "\x01\x03job\x06secret"
	connect  = "\x05\x01\x00\x03\x08erp.corp\x05\x99"
	done     = "\x05\x02\x01\x00"
)

func TestSocks5Answers(t *testing.T) {
	coded := func(code string) error { return &failure{code, "store", "seen", ""} }
	tests := []struct {
		name, sent, want string
		dial             error
	}{
		{"open", greeting + login + connect + "hello", done + "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello", nil},
		{"socks 4", "\x04\x01", "", nil},
		{"no password offered", "\x05\x01\x00", "\x05\xff", nil},
		{"wrong token", greeting + "\x01\x03job\x05wrong", "\x05\x02\x01\x01", nil},
		{"bind", greeting + login + "\x05\x02\x00\x03\x01a\x00\x00", done + "\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00", nil},
		{"udp", greeting + login + "\x05\x03\x00\x03\x01a\x00\x00", done + "\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00", nil},
		{"address type", greeting + login + "\x05\x01\x00\x09\x01a\x00\x00", done + "\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00", nil},
		{"not allowed", greeting + login + connect, done + "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", coded("job-not-allowed")},
		{"unknown", greeting + login + connect, done + "\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00", coded("gateway-unknown")},
		{"refused", greeting + login + connect, done + "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", &bundle.RefusedError{Reason: bundle.CodeStoreRefused}},
		{"timeout", greeting + login + connect, done + "\x05\x06\x00\x01\x00\x00\x00\x00\x00\x00", &bundle.RefusedError{Reason: bundle.CodeStoreTimeout}},
		{"no node", greeting + login + connect, done + "\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00", coded("no-node-online")},
		{"cut off", greeting + login + connect[:6], done + "\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			relay := &fakeRelay{err: test.dial}
			conn, err := net.Dial("tcp", startServer(t, relay, NewSocks5(relay, nil, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, test.sent)
			_ = conn.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(conn)
			if err != nil && test.want != "" || string(got) != test.want {
				t.Errorf("%q %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestSocks5Target(t *testing.T) {
	for sent, want := range map[string]Target{
		connect: {"erp.corp", 0x0599},
		"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50":                                                 {"10.0.0.1", 80},
		"\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50": {"2001:db8::1", 80},
	} {
		got, _, err := readRequest(bytes.NewReader([]byte(sent)))
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", sent, got, err, want)
		}
	}
}

func TestPort(t *testing.T) {
	target, job := Target{Host: "erp.corp"}, Job{Tenant: "default", Name: "j"}
	t.Run("open", func(t *testing.T) {
		relay := &fakeRelay{}
		conn, err := net.Dial("tcp", startServer(t, relay, NewPort(relay, Binding{target, job}, nil, nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "hello")
		_ = conn.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
			t.Errorf("%q %v", got, err)
		}
		if gotTarget, gotJob := <-relay.targets, <-relay.jobs; gotTarget != target || gotJob != job {
			t.Errorf("dialled %+v for %+v", gotTarget, gotJob)
		}
	})
	t.Run("a dial that fails is a reset", func(t *testing.T) {
		relay := &fakeRelay{err: errors.New("no")}
		conn, err := net.Dial("tcp", startServer(t, relay, NewPort(relay, Binding{target, job}, nil, nil)))
		if errors.Is(err, syscall.ECONNRESET) {
			return // so fast
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("ended with %v", err)
		}
	})
}

func FuzzSocks5Request(f *testing.F) {
	f.Add([]byte(connect))
	f.Add([]byte("\x05\x01\x00\x04"))
	f.Fuzz(func(t *testing.T, b []byte) {
		target, _, err := readRequest(bytes.NewReader(b))
		if err == nil && (target.Port < 0 || target.Port > 65535 || len(target.Host) > 255) {
			t.Errorf("%q is %+v", b, target)
		}
	})
}

func FuzzSocks5Password(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		user, password, err := readPassword(r)
		if err != nil {
			return
		}
		if read := len(b) - r.Len(); read != 3+len(user)+len(password) {
			t.Errorf("%q: read %d bytes for %q and %q", b, read, user, password)
		}
		if run, err := runOf(user); err == nil && len(run) > maxRun {
			t.Errorf("a run of %d bytes", len(run))
		}
	})
}
