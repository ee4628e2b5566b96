package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/relay/state/postgrestest"
)

// TestStartsBeforeItsDatabase: a relay that starts while PostgreSQL is away waits,
// says so, and serves once it is there; one that is told to stop meanwhile stops.
// What time does not mend ends it.
func TestStartsBeforeItsDatabase(t *testing.T) {
	server := postgrestest.Start(t)
	at, err := config.ParsePostgres(server.Database(t), "")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "relay") // short: it holds a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	free, err := net.Listen("tcp", "127.93.12.7:0") // where nobody else looks for a port
	if err != nil {
		t.Fatal(err)
	}
	metrics := free.Addr().String()
	_ = free.Close()
	file := &config.Relay{
		Hostname: "127.0.0.1", Listen: config.RelayListen{TLS: "127.0.0.1:0"}, Metrics: config.Listen(metrics),
		State: config.RelayState{Dir: dir, KeyFile: dir + "/state.key", Postgres: at},
	}
	if err := state.Init(t.Context(), state.Options{Dir: dir, KeyFile: file.State.KeyFile, Postgres: at}); err != nil {
		t.Fatal(err)
	}
	start := func(file config.Relay) (ready chan Ready, stop context.CancelFunc, over chan error) {
		ready, over = make(chan Ready, 1), make(chan error, 1)
		r, err := New(Config{File: &file, Ready: func(a Ready) { ready <- a }, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		t.Cleanup(stop)
		go func() { over <- r.Run(ctx) }()
		return ready, stop, over
	}
	health := func() string {
		answer, err := http.Get("http://" + metrics + "/healthz")
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return answer.Status + ": " + string(text)
	}
	defer http.DefaultClient.CloseIdleConnections()

	server.Stop()
	_, stop, over := start(*file)
	until(t, "it says what it waits for", func() bool {
		text := health()
		return strings.HasPrefix(text, "503") && strings.Contains(text, "waiting for the state's database") && !strings.Contains(text, postgrestest.Password)
	})
	stop()
	if err := <-over; err != nil {
		t.Errorf("stopped while it waited: %v", err)
	}

	var ready chan Ready
	ready, stop, over = start(*file)
	until(t, "it waits again", func() bool { return strings.HasPrefix(health(), "503") })
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	select {
	case at := <-ready:
		if at.Metrics != metrics {
			t.Errorf("metrics are at %s, not at %s", at.Metrics, metrics)
		}
	case err := <-over:
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("not ready a minute after the database")
	}
	if text := health(); text != "200 OK: ok\n" {
		t.Error(text)
	}
	stop()
	if err := <-over; err != nil {
		t.Error(err)
	}

	wrong := *file
	if wrong.State.Postgres, err = config.ParsePostgres(strings.Replace(server.Database(t), postgrestest.Password, "other", 1), ""); err != nil {
		t.Fatal(err)
	}
	_, _, over = start(wrong)
	select {
	case err := <-over:
		if !errors.Is(err, state.ErrUnavailable) || !strings.Contains(err.Error(), "password") {
			t.Errorf("with a wrong password: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for a password to become right")
	}
}
