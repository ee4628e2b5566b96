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

// A certificate is renewed when half its life is over by the relay's clock, which
// issued it, whatever this machine's says; the new one serves at once.
func TestRenewByTheRelaysClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"the relay is behind": -10 * time.Minute, "the relay is ahead": -2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, relayOptions{noQUIC: true, ahead: ahead})
			asked := make(chan tunnel.RenewCert, 8)
			r.set(func(r *fakeRelay) {
				r.life = 21 * time.Minute
				r.renew = func(req tunnel.RenewCert) error { asked <- req; return nil }
			})
			p := start(t, r, portOf(echo(t).Addr()))
			<-p.ready
			v := r.next(tunnel.RoleControl)
			first := p.status(func(r *Report) bool { return r.Online }).CertificateExpires
			select {
			case req := <-asked:
				t.Fatalf("renewed before its time: %+v", req)
			default:
			}
			r.passed.Store(int64(13 * time.Minute)) // from where it was; no time for us
			_ = v.Close("tells the time again")
			rep := p.status(func(r *Report) bool { return r.Online && r.CertificateExpires.After(first) && !r.CertificateUnsaved })
			if life := rep.CertificateExpires.Sub(r.now()); life < 15*time.Minute || life > 21*time.Minute {
				t.Errorf("the new certificate lives %v", life)
			}
			for n := range max(len(asked), 1) { // again, where the session ended over the answer
				if req := <-asked; req.Counter != 1 {
					t.Errorf("asked for number %d, the %d. time", req.Counter, n+1)
				}
			}
			until(t, "a session with the new certificate", func() bool { return r.has(rep.CertificateExpires) })
		})
	}
}

// has tells whether a session is up whose certificate expires then.
func (r *fakeRelay) has(expires time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v := range r.live {
		if chain := v.Link().ConnectionState().PeerCertificates; len(chain) > 0 && chain[0].NotAfter.Equal(expires) {
			return true
		}
	}
	return false
}
