package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ebbgate/ebbgate/relay/state"
)

const (
	// stateRetry and stateRetryMost are the pauses between attempts to open a state
	// whose database is away.
	stateRetry     = 250 * time.Millisecond
	stateRetryMost = 5 * time.Second
	// stateTold is how often the log says that it is still away.
	stateTold = 30 * time.Second
)

// awaitState opens the state. Where PostgreSQL is out of reach, as it is when a
// whole rack begins anew, it waits; anything else that is wrong is an error. Where
// ctx ends first there is no state and no error.
func (r *Relay) awaitState(ctx context.Context) error {
	began := time.Now()
	var told time.Time
	for pause := stateRetry; ; pause = min(2*pause, stateRetryMost) {
		err := r.open(ctx)
		switch {
		case err == nil && !told.IsZero():
			r.log.Info("the database is there", "waited", time.Since(began).Round(time.Millisecond))
			return nil
		case ctx.Err() != nil && r.state == nil:
			return nil
		case !errors.Is(err, state.ErrAway):
			return err
		}
		r.waitFor("the state's database " + r.cfg.File.State.Postgres.String())
		if now := time.Now(); now.Sub(told) >= stateTold {
			told = now
			r.log.Warn("the relay waits for its state's database, and serves nobody meanwhile", "database", r.cfg.File.State.Postgres.String(),
				"waited", now.Sub(began).Round(time.Second), "error", err, "advice", "look at the database server, and at the network between it and the relay; the relay begins by itself")
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// waitFor has /healthz say what is missing.
func (r *Relay) waitFor(what string) { r.waiting.Store(&what) }

// telling serves the metrics and /healthz, also before the relay serves others.
type telling struct {
	listener net.Listener // nil: no metrics are wanted
	server   *http.Server
	over     chan error
}

// tell begins to serve them.
func (r *Relay) tell(ctx context.Context) (*telling, error) {
	t := &telling{over: make(chan error, 1)}
	r.waitFor("the state")
	if r.cfg.File.Metrics == "" {
		return t, nil
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", string(r.cfg.File.Metrics))
	if err != nil {
		return nil, listenError("metrics", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.cfg.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", r.healthz)
	t.listener = l
	t.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	go t.serve()
	return t, nil
}

func (t *telling) serve() { t.over <- t.server.Serve(t.listener) }

func (t *telling) address() string {
	if t.listener == nil {
		return ""
	}
	return t.listener.Addr().String()
}

// watch returns why it is not served any more, or when ctx ends.
func (t *telling) watch(ctx context.Context) error {
	select {
	case err := <-t.over:
		t.over <- err
		return fmt.Errorf("relay: metrics: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// close ends it.
func (t *telling) close() error {
	if t.server == nil {
		return nil
	}
	err := t.server.Close()
	<-t.over
	return err
}

// healthz says whether the relay serves.
func (r *Relay) healthz(w http.ResponseWriter, _ *http.Request) {
	if what := r.waiting.Load(); what != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintln(w, "waiting for", *what)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}
