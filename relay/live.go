package relay

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/config/watch"
)

// refusedLook is how often a configuration that was refused is read again: the
// files of a certificate and its key change one after the other.
const refusedLook = 2 * time.Second

// live is the configuration that is in force. It belongs to keepConfig.
type live struct {
	file    *config.Relay
	refused string // what the last refusal said; empty: the last one was good
}

// keepConfig reads the configuration again when a file changed and when the
// program is told to, until ctx ends. A certificate that the configuration names
// belongs to it.
func (r *Relay) keepConfig(ctx context.Context) error {
	if r.cfg.Reload == nil {
		return nil
	}
	files := make(chan []string)
	w := &watch.Watcher{Files: r.watched, Logger: r.log, Changed: func(names []string) {
		select {
		case files <- names:
		case <-ctx.Done():
		}
	}}
	over := make(chan struct{})
	go func() { defer close(over); w.Run(ctx) }()
	defer func() { <-over }()
	l := &live{file: r.cfg.File}
	select { // the watch stands: what changed before it did
	case <-files:
		r.reload(ctx, l, "start")
	case <-ctx.Done():
		return nil
	}
	for {
		var again <-chan time.Time
		if l.refused != "" {
			again = time.After(refusedLook)
		}
		cause := "file"
		select {
		case <-ctx.Done():
			return nil
		case <-files:
		case <-again:
			cause = "retry"
		case <-r.cfg.Hangup:
			cause = "SIGHUP"
		}
		r.reload(ctx, l, cause)
	}
}

// watched are the configuration's file and the files that it names.
func (r *Relay) watched() []string {
	in := r.inForce.Load()
	names := []string{r.cfg.Path, in.TLS.Cert, in.TLS.Key, in.Ingress.Connect.ClientCA, in.Ingress.Socks5.ClientCA}
	for _, p := range in.Ingress.Ports {
		names = append(names, p.ClientCA)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

// reload reads the configuration and puts it in force, all of it or nothing.
func (r *Relay) reload(ctx context.Context, l *live, cause string) {
	log := r.log.With("cause", cause, "file", r.cfg.Path)
	file, changed, err := r.take(ctx, l.file)
	switch {
	case err != nil && err.Error() == l.refused && cause == "retry":
	case err != nil:
		l.refused = err.Error()
		r.metrics.reloads.WithLabelValues("refused").Inc()
		r.metrics.configGood.Set(0)
		attrs := []any{"error", err, "code", codeOf(err)}
		if a, ok := err.(interface{ Advice() string }); ok {
			attrs = append(attrs, "advice", a.Advice())
		}
		log.Error("the configuration is refused, the one before stays in force", attrs...)
	default:
		l.file, l.refused = file, ""
		r.metrics.configGood.Set(1)
		if needed := needRestart(r.cfg.File, file); len(needed) > 0 {
			log.Warn("keys of the configuration changed that need a restart; they are as before until then", "keys", needed)
		}
		switch {
		case len(changed) == 0 && cause == "start":
			return
		case len(changed) == 0:
			r.metrics.reloads.WithLabelValues("unchanged").Inc()
			log.Info("the configuration was read again, nothing changed")
			return
		}
		r.metrics.reloads.WithLabelValues("ok").Inc()
		log.Info("the configuration was read again and is in force", "changed", changed)
	}
}

// take reads the configuration and puts in force what can change while the relay
// runs.
func (r *Relay) take(ctx context.Context, was *config.Relay) (file *config.Relay, changed []string, err error) {
	if file, err = r.cfg.Reload(); err != nil {
		return nil, nil, err
	}
	public, err := r.self.load(file.TLS, time.Now())
	if err != nil {
		return nil, nil, err
	}
	doors, err := r.doors.apply(ctx, file.Ingress)
	if err != nil {
		return nil, nil, err
	}
	if r.self.usePublic(file.TLS, public) {
		changed = append(changed, "tls")
	}
	changed = append(changed, doors...)
	if file.Log.Level != was.Log.Level {
		changed = append(changed, "log.level")
		if r.cfg.Level != nil {
			r.cfg.Level.Set(file.Log.Level)
		}
	}
	r.inForce.Store(file)
	return file, changed, nil
}

// needRestart lists the keys whose change needs a restart.
func needRestart(was, is *config.Relay) (keys []string) {
	for _, k := range []struct {
		key     string
		was, is any
	}{
		{"hostname", was.Hostname, is.Hostname},
		{"listen", was.Listen, is.Listen},
		{"state", was.State, is.State},
		{"metrics", was.Metrics, is.Metrics},
		{"activity", was.Activity, is.Activity},
		{"resume_grace", was.ResumeGrace, is.ResumeGrace},
		{"log.format", was.Log.Format, is.Log.Format},
	} {
		if !reflect.DeepEqual(k.was, k.is) {
			keys = append(keys, k.key)
		}
	}
	return keys
}
