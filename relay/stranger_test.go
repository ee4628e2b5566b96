package relay

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

// A newcomer who proves nothing counts as a stranger as long as it stays.
func TestEnrollingSessionsStayStrangers(t *testing.T) {
	r := startRelay(t, 0)
	for _, carrier := range tunnel.Carriers {
		t.Run(string(carrier), func(t *testing.T) {
			cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{tunnel.ALPN}}
			link, err := r.dialer(carrier, func() *tls.Config { return cfg }).Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s := tunnel.NewSession(link, tunnel.SessionConfig{Initiator: true, Hello: tunnel.Hello{Role: tunnel.RoleEnrol}})
			if _, err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := r.strangers(); n != 1 {
				t.Errorf("%d strangers, want 1", n)
			}
			_ = link.Close("test over")
			until(t, "the stranger is gone", func() bool { return r.strangers() == 0 })
		})
	}
}

func (r *running) strangers() int {
	r.relay.doorkeeper.mu.Lock()
	defer r.relay.doorkeeper.mu.Unlock()
	return r.relay.doorkeeper.total
}

// A stranger's hello cannot make up what metrics are labelled with.
func TestHelloIsNoLabel(t *testing.T) {
	r := startRelay(t, 0)
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{tunnel.ALPN}}
	link, err := r.dialer(tunnel.TLS, func() *tls.Config { return cfg }).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close("test over")
	stream, err := link.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	message := `{"type":"error","body":{"code":"of-my-own"}}`
	_, _ = stream.Write(append([]byte{0, 0, 0, byte(len(message))}, message...)) // the answer may be faster
	until(t, "the session is over", func() bool { return len(r.sessionEnds()) > 0 })
	if ends := r.sessionEnds(); len(ends) != 1 || ends["protocol-violation"] != 1 {
		t.Errorf("sessions ended %v", ends)
	}
}

// sessionEnds is how many sessions ended, by reason.
func (r *running) sessionEnds() map[string]float64 {
	families, err := r.relay.cfg.Registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	ends := make(map[string]float64)
	for _, f := range families {
		if f.GetName() != "ebbgate_relay_sessions_ended_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			ends[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return ends
}

// One address enrols so many at once, and hears why not more.
func TestEnrolmentsTooMany(t *testing.T) {
	r := startRelay(t, 0)
	if _, err := r.api.CreateGateway(t.Context(), "default", "corp"); err != nil {
		t.Fatal(err)
	}
	for range enrolHostBurst {
		r.relay.enrolling.allow("127.0.0.1", time.Now().Add(time.Hour))
	}
	_, err := r.register(tunnel.TLS, "corp", "n1")
	var refused *tunnel.Error
	if !errors.As(err, &refused) || refused.ErrCode != "enrolments-too-many" || refused.Advise == "" {
		t.Errorf("got %v", err)
	}
}
