package connector

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// journal is a log that a test reads while it is written.
type journal struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all.Write(p)
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.all.String(), text)
}

// A clock that is ten minutes off, either way, is said and nothing more:
// registration, session and dials go by the relay's time, whose grants live a
// minute.
func TestClockTenMinutesOff(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"the relay is ahead": 10 * time.Minute, "the relay is behind": -10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, relayOptions{ahead: ahead})
			opt := r.options(t)
			if _, err := Register(t.Context(), opt); err != nil {
				t.Fatal(err)
			}
			opt.File.Stores = stores(portOf(echo(t).Addr()))
			log := new(journal)
			p := runConfig(t, Config{File: opt.File, Logger: slog.New(slog.NewTextHandler(log, nil))})
			<-p.ready
			r.next(tunnel.RoleControl)
			stream, err := r.open(t.Context(), r.node("n1"), "echo", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := exchange(t, stream, 1000); got.Reason != bundle.CodeOK {
				t.Errorf("report %+v", got)
			}
			if !log.has("the clocks differ") || !log.has("relay_minus_here="+ahead.String()) {
				t.Errorf("the log does not say so: %s", &log.all)
			}
		})
	}
}
