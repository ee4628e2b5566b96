// Package watch tells when files changed: written in place, replaced by rename as
// editors and Kubernetes do, removed and made again.
//
// A [Watcher] watches the folders that the files, and what links to them, are in,
// waits until a burst of changes is over, and compares what the files hold: a
// change of anything else in a folder, or of a file's times alone, is none. Where
// the system does not tell of changes (some network file systems), they are
// noticed within half a minute.
//
// It never opens what is no regular file, keeps no contents, and does not say what
// changed in a file.
package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long nothing must have happened before files are looked at,
	// most how long that is put off.
	settle = 200 * time.Millisecond
	most   = 2 * time.Second
	// poll is how often files are looked at where nobody tells.
	poll = 30 * time.Second
	// limit is how much of a file is compared, in bytes.
	limit = 4 << 20
)

// Watcher watches files. Its fields do not change once Run was called.
type Watcher struct {
	// Files names the files; it is asked again each time that they are looked at.
	Files func() []string
	// Changed is told which files hold something else, or can or cannot be read
	// now. It is called once at the start with all of them, for changes before
	// the watch stood; never twice at the same time.
	Changed func(names []string)
	// Logger is told what does not work; nil discards.
	Logger *slog.Logger
}

// Run watches until ctx ends. Nothing that it started is left then.
func (w *Watcher) Run(ctx context.Context) {
	log := w.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var events chan fsnotify.Event
	var failures chan error
	told, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("the system does not tell of changed files; they are looked at now and then", "error", err, "every", poll)
	} else {
		defer told.Close()
		events, failures = told.Events, told.Errors
	}
	l := &looker{Watcher: w, told: told, log: log, warned: make(map[string]bool)}
	l.look() // what is watched from now on
	w.Changed(w.Files())
	slow := time.NewTicker(poll)
	defer slow.Stop()
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	quiet.Stop()
	var latest time.Time // of the burst that is under way
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
		case err := <-failures: // events were lost
			log.Debug("watching files", "error", err)
		case <-slow.C:
			l.tell()
			continue
		case <-quiet.C:
			latest = time.Time{}
			l.tell()
			continue
		}
		if latest.IsZero() {
			latest = time.Now().Add(most)
		}
		quiet.Reset(min(settle, time.Until(latest)))
	}
}

// looker is a Watcher that runs. It belongs to one goroutine.
type looker struct {
	*Watcher
	told   *fsnotify.Watcher // nil: nobody tells
	log    *slog.Logger
	seen   map[string]string // what the files held, by name
	warned map[string]bool   // folders that cannot be watched
}

// tell looks at the files and tells which ones changed.
func (l *looker) tell() {
	if changed := l.look(); len(changed) > 0 {
		l.Changed(changed)
	}
}

// look looks at the files and gives those that changed since the last look. A
// file that was not asked for then is not among them.
func (l *looker) look() (changed []string) {
	names := l.Files()
	l.follow(names)
	seen := make(map[string]string, len(names))
	for _, name := range names {
		seen[name] = fingerprint(name)
		if before, ok := l.seen[name]; ok && before != seen[name] {
			changed = append(changed, name)
		}
	}
	l.seen = seen
	return changed
}

// follow watches the folders of the files, and no others.
func (l *looker) follow(names []string) {
	if l.told == nil {
		return
	}
	var folders []string
	for _, name := range names {
		folders = append(folders, filepath.Dir(name))
		if real, err := filepath.EvalSymlinks(name); err == nil {
			folders = append(folders, filepath.Dir(real))
		}
	}
	for _, folder := range l.told.WatchList() {
		if !slices.Contains(folders, folder) {
			_ = l.told.Remove(folder)
		}
	}
	for _, folder := range folders {
		// Again each time: a folder of that name may be another one now.
		if err := l.told.Add(folder); err != nil && !l.warned[folder] {
			l.warned[folder] = true
			l.log.Warn("changes in a folder are noticed late", "folder", folder, "every", poll, "error", err)
		}
	}
}

// fingerprint differs where what a file holds differs.
func fingerprint(name string) string {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return "unreadable"
	case !info.Mode().IsRegular():
		return "irregular"
	}
	f, err := os.Open(name)
	if err != nil {
		return "unreadable"
	}
	defer f.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, io.LimitReader(f, limit)); err != nil {
		return "unreadable"
	}
	return fmt.Sprintf("%x", digest.Sum(nil))
}
