package connector

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/config/watch"
)

// question asks for a reload; the answer comes in the channel, which has room.
type question chan<- reloaded

// Causes of a reload that are no wish of a person.
const (
	causeStart = "start" // what changed before the files were watched
	causeFile  = "file"
	causeRetry = "retry" // the last one was refused
)

// refusedLook is how often a configuration that was refused is read again. The
// watch tells nothing where a file is what it was when it was last looked at, and
// was another one in between.
const refusedLook = 2 * time.Second

type reloaded struct {
	set     *settings // that are in force now
	changes *Changes
	err     error
}

// keepConfig reads the configuration again when it changed, when the program is
// told to, and when somebody asks, until ctx ends.
func (r *running) keepConfig(ctx context.Context) error {
	if r.cfg.Reload == nil {
		<-ctx.Done()
		return nil
	}
	files := make(chan []string)
	w := &watch.Watcher{Files: r.watched, Logger: r.logger, Changed: func(names []string) {
		select {
		case files <- names:
		case <-ctx.Done():
		}
	}}
	over := make(chan struct{})
	go func() { defer close(over); w.Run(ctx) }()
	defer func() { <-over }()
	select { // the watch stands
	case <-files:
		r.reload(ctx, causeStart)
	case <-ctx.Done():
		return nil
	}
	for {
		var retry <-chan time.Time
		if r.refusal() != nil {
			retry = time.After(refusedLook)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-retry:
			r.reload(ctx, causeRetry)
		case <-r.cfg.Hangup:
			r.reload(ctx, "SIGHUP")
		case q := <-r.questions:
			q <- r.reload(ctx, "command")
		case names := <-files:
			if slices.Contains(names, r.cfg.Path) {
				r.reload(ctx, causeFile)
			}
			if password := r.set.Load().file.Proxy.PasswordFile; password != "" && slices.Contains(names, password) {
				r.again() // it is read at each dial
			}
		}
	}
}

// watched are the files that are watched: the configuration, and what it names.
func (r *running) watched() (names []string) {
	if r.cfg.Path != "" {
		names = append(names, r.cfg.Path)
	}
	if password := r.set.Load().file.Proxy.PasswordFile; password != "" {
		names = append(names, password)
	}
	return names
}

// reload reads the configuration and puts it in force. One that is bad changes
// nothing but the status.
func (r *running) reload(ctx context.Context, cause string) reloaded {
	was := r.set.Load()
	next, changes, err := r.prepare(was)
	if err != nil {
		if f := r.refusal(); cause == causeRetry && f != nil && f.Message == err.Error() {
			return reloaded{set: was, err: err}
		}
		r.setRefusal(failureOf(err, time.Now().UTC()))
		r.metrics.reloads.WithLabelValues("refused").Inc()
		r.metrics.configGood.Set(0)
		r.logger.Error("the configuration is refused, the one before stays in force", append(attrs(err), "cause", cause)...)
		return reloaded{set: was, err: err}
	}
	r.setRefusal(nil)
	r.metrics.configGood.Set(1)
	log := r.logger.With("cause", cause, "file", r.cfg.Path)
	r.mu.Lock()
	r.restart = changes.Restart
	r.mu.Unlock()
	if changes.none() {
		if cause != causeStart {
			r.metrics.reloads.WithLabelValues("unchanged").Inc()
			log.Info("the configuration was read again, nothing changed", "restart_needed", changes.Restart)
		}
		changes.Moving = r.moving()
		return reloaded{set: was, changes: changes}
	}
	if changes.reroutes() { // what must not be dialled is known before it is used
		for _, to := range next.seeds {
			r.look(ctx, to, next.proxy)
		}
	}
	if r.cfg.Level != nil {
		r.cfg.Level.Set(next.file.Log.Level)
	}
	r.put(next, changes.reroutes())
	r.limitLanes()
	r.metrics.reloads.WithLabelValues("ok").Inc()
	log.Info("the configuration was read again and is in force", "stores_added", changes.StoresAdded, "stores_removed", changes.StoresRemoved,
		"stores_changed", changes.StoresChanged, "keys", changes.Keys, "restart_needed", changes.Restart)
	if changes.reroutes() {
		r.again()
		changes.Moving = r.moving()
	}
	return reloaded{set: next, changes: changes}
}

// refusal is why the configuration that was read last is not in force; nil: it is.
func (r *running) refusal() *Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

func (r *running) setRefusal(f *Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = f
}

// prepare reads and checks the configuration, and makes what it needs.
func (r *running) prepare(was *settings) (*settings, *Changes, error) {
	file, err := r.cfg.Reload()
	if err != nil {
		return nil, nil, err
	}
	changes := compare(r.cfg.File, was.file, file)
	changes.File = r.cfg.Path
	file.StateDir = r.cfg.File.StateDir
	if err := announceable(file.Stores); err != nil {
		return nil, nil, err
	}
	proxy := was.proxy
	if slices.Contains(changes.Keys, "proxy") {
		if proxy, err = newProxy(file, r.cfg.Environment, r.logger); err != nil {
			return nil, nil, err
		}
	}
	return r.newSettings(file, proxy, was.number+1), changes, nil
}

// announceable checks that a message has room for the stores.
func announceable(stores []config.Store) error {
	if raw, err := json.Marshal(announced(stores)); err != nil || len(raw) > maxAnnounced {
		return failure("config-invalid", "config", err, "spread them over several gateways, each with nodes of its own", "%d stores are more than a node can announce", len(stores))
	}
	return nil
}

// ConfigReport is which configuration is in force.
type ConfigReport struct {
	// File is empty where there is none.
	File string `json:"file"`
	// Loaded is when what is in force was read.
	Loaded time.Time `json:"loaded"`
	// Error is why what was read last is not in force.
	Error *Failure `json:"error,omitempty"`
	// Restart are keys that have another value since the start, which they get
	// with a restart only.
	Restart []string `json:"restart,omitempty"`
	// Moving is true while sessions use the way before, because the new way does
	// not work, or streams are open that would end.
	Moving bool `json:"moving"`
}

func (r *running) configReport() ConfigReport {
	moving := r.moving()
	r.mu.Lock()
	defer r.mu.Unlock()
	return ConfigReport{File: r.cfg.Path, Loaded: r.set.Load().loaded, Error: r.refused, Restart: r.restart, Moving: moving}
}

// reloadTimeout bounds a reload that somebody waits for, announceTimeout how long
// it waits for the relay to know.
const (
	reloadTimeout   = 30 * time.Second
	announceTimeout = 5 * time.Second
)

// askReload answers a question for a reload: when the configuration is in force,
// and the relay knows it where there is a session.
func (r *running) askReload(ctx context.Context) (*Changes, error) {
	if r.cfg.Reload == nil {
		return nil, failure("reload-unavailable", "config", nil, "restart it", "this connector cannot read its configuration again")
	}
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	late := failure("reload-timeout", "node", nil, "ask again; ebbgate connector status shows what is in force", "the connector is still busy with another reload")
	answer := make(chan reloaded, 1)
	select {
	case r.questions <- answer:
	case <-ctx.Done():
		return nil, late
	}
	var done reloaded
	select {
	case done = <-answer:
	case <-ctx.Done():
		return nil, late
	}
	if done.err != nil {
		return nil, done.err
	}
	timer := time.NewTimer(announceTimeout)
	defer timer.Stop()
	if session, _ := r.sessions.anyControl(); session == nil {
		timer.Reset(0)
	}
	for {
		told, changed := r.sessions.informed(done.set.number)
		if done.changes.Announced = told; told {
			return done.changes, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return done.changes, nil
		case <-ctx.Done():
			return done.changes, nil
		}
	}
}

// Text says what a reload changed, for people, in lines.
func (c *Changes) Text() string {
	var lines []string
	say := func(what string, list []string) {
		if len(list) > 0 {
			lines = append(lines, what+": "+strings.Join(list, ", "))
		}
	}
	say("stores added", c.StoresAdded)
	say("stores removed", c.StoresRemoved)
	say("stores changed", c.StoresChanged)
	say("keys changed", c.Keys)
	if len(lines) == 0 {
		lines = append(lines, "nothing changed")
	}
	say("needs a restart", c.Restart)
	if c.Moving {
		lines = append(lines, "the session moves to the new way when that works; until then it stays on the one before")
	}
	if !c.Announced {
		lines = append(lines, "the relay does not know yet: there is no session, or it does not answer; it is told with the next one")
	}
	return strings.Join(lines, "\n")
}
