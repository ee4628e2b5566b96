package ingress

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRelay answers dials with an echo or with an error.
type fakeRelay struct {
	err     error
	targets chan Target
	jobs    chan Job
	slow    chan struct{} // how long a dial takes; nil: no time
}

func (f *fakeRelay) Authenticate(_ context.Context, name, token, _ string) (Job, error) {
	if token != "secret" {
		return Job{}, &failure{"token-invalid", "relay", "the token is wrong", ""}
	}
	return Job{Tenant: "default", Name: name}, nil
}

func (f *fakeRelay) Dial(ctx context.Context, job Job, target Target, _ net.Addr) (Stream, error) {
	f.targets <- target
	f.jobs <- job
	if f.slow != nil {
		select {
		case <-f.slow:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	return echo{}, nil
}

type echo struct{}

func (echo) Reset(bundle.Code) {}

func (echo) Carry(sock bundle.Socket, prefix []byte) bundle.Report {
	_, _ = sock.Write(prefix)
	_, _ = io.Copy(sock, sock)
	_ = sock.SetLinger(-1)
	_ = sock.Close()
	return bundle.Report{}
}

func start(t *testing.T, relay *fakeRelay) (address string) {
	t.Helper()
	relay.targets, relay.jobs = make(chan Target, 10), make(chan Job, 10)
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := NewConnect(relay, nil, nil)
	over := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { over <- c.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
		drain, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		if err := c.Drain(drain); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestAnswers(t *testing.T) {
	coded := func(code string) error { return &failure{code, "store", "seen " + code, "do this"} }
	tests := []struct {
		name, request, auth string
		dial                error
		status              int
		code                string
	}{
		{"no token", "CONNECT erp.corp:1 HTTP/1.1", "", nil, 407, "token-missing"},
		{"wrong token", "CONNECT erp.corp:1 HTTP/1.1", basic("job", "x"), nil, 407, "token-invalid"},
		{"garbled header", "CONNECT erp.corp:1 HTTP/1.1", "Basic !!!", nil, 407, "token-malformed"},
		{"unknown scheme", "CONNECT erp.corp:1 HTTP/1.1", "Digest x", nil, 407, "token-malformed"},
		{"no port", "CONNECT erp.corp HTTP/1.1", basic("job", "secret"), nil, 400, "target-malformed"},
		{"port too large", "CONNECT erp.corp:70000 HTTP/1.1", basic("job", "secret"), nil, 400, "target-malformed"},
		{"not allowed", "CONNECT erp.corp:1 HTTP/1.1", basic("job", "secret"), coded("job-not-allowed"), 403, "job-not-allowed"},
		{"unknown gateway", "CONNECT erp.corp:1 HTTP/1.1", basic("job", "secret"), coded("gateway-unknown"), 404, "gateway-unknown"},
		{"unknown store", "CONNECT erp.corp:1 HTTP/1.1", basic("job", "secret"), &bundle.RefusedError{Reason: bundle.CodeStoreUnknown}, 404, "store-unknown"},
		{"store refused", "CONNECT erp.corp:1 HTTP/1.1", basic("job", "secret"), &bundle.RefusedError{Reason: bundle.CodeStoreRefused, Text: "10.1.1.1:5"}, 502, "store-refused"},
		{"no node", "CONNECT erp.corp:1 HTTP/1.1", basic("job", "secret"), coded("no-node-online"), 503, "no-node-online"},
		{"timeout", "CONNECT erp.corp:1 HTTP/1.1", "Bearer secret", &bundle.RefusedError{Reason: bundle.CodeStoreTimeout}, 504, "store-timeout"},
		{"uncoded", "CONNECT erp.corp:1 HTTP/1.1", basic("job", "secret"), errors.New("what"), 502, "internal"},
		{"GET", "GET / HTTP/1.1", basic("job", "secret"), nil, 405, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			address := start(t, &fakeRelay{err: test.dial})
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "%s\r\nHost: x\r\nConnection: close\r\n", test.request)
			if test.auth != "" {
				fmt.Fprintf(conn, "Proxy-Authorization: %s\r\n", test.auth)
			}
			fmt.Fprint(conn, "\r\n")
			answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "GET"})
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatalf("the answer was cut off: %v", err)
			}
			if answer.StatusCode != test.status || answer.Header.Get("Ebbgate-Error") != test.code {
				t.Errorf("%d %q, want %d %q; body %s", answer.StatusCode, answer.Header.Get("Ebbgate-Error"), test.status, test.code, body)
			}
			if test.status == 407 && !strings.HasPrefix(answer.Header.Get("Proxy-Authenticate"), "Basic ") {
				t.Error("407 without a challenge")
			}
		})
	}
}

func TestPipelinedBytesArriveFirst(t *testing.T) {
	relay := &fakeRelay{}
	address := start(t, relay)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT Erp-SQL.Corp.:1433 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: %s\r\n\r\nearly", basic("nightly/run-7", "secret"))
	fmt.Fprint(conn, " and late")
	conn.(*net.TCPConn).CloseWrite()
	r := bufio.NewReader(conn)
	answer, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err != nil || answer.StatusCode != 200 {
		t.Fatal(answer, err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "early and late" {
		t.Fatalf("%q %v", got, err)
	}
	if target := <-relay.targets; target != (Target{"erp-sql.corp", 1433}) {
		t.Errorf("target %+v", target)
	}
	if job := <-relay.jobs; job.Name != "nightly" || job.Run != "run-7" {
		t.Errorf("job %+v", job)
	}
}

// TestHalfClosedBeforeTheAnswer: a job that has said all before it was answered is still there.
func TestHalfClosedBeforeTheAnswer(t *testing.T) {
	relay := &fakeRelay{slow: make(chan struct{})}
	conn, err := net.Dial("tcp", start(t, relay))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "CONNECT erp-sql.corp:1433 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Bearer secret\r\n\r\n")
	_ = conn.(*net.TCPConn).CloseWrite()
	<-relay.jobs
	timer := time.NewTimer(200 * time.Millisecond) // for the ingress to see the end
	defer timer.Stop()
	<-timer.C
	close(relay.slow)
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", answer, err)
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("%q %v", rest, err)
	}
}

func TestKeptAliveAfterARefusal(t *testing.T) {
	address := start(t, &fakeRelay{})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	fmt.Fprint(conn, "CONNECT a.b:1 HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, err := http.ReadResponse(r, &http.Request{Method: "GET"})
	if err != nil || answer.StatusCode != 407 {
		t.Fatal(answer, err)
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	fmt.Fprintf(conn, "CONNECT a.b:1 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: %s\r\n\r\n", basic("j", "secret"))
	answer, err = http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err != nil || answer.StatusCode != 200 {
		t.Fatal(answer, err)
	}
}
