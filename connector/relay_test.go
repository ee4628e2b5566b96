package connector

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// twoRelays starts two relays of one instance, without QUIC.
func twoRelays(t *testing.T) (a, b *fakeRelay) {
	t.Helper()
	ca, err := certs.NewAuthority("0123456789abcdef0123456789abcdef", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a = startRelay(t, relayOptions{noQUIC: true, ca: ca, name: "a"})
	return a, startRelay(t, relayOptions{noQUIC: true, ca: ca, name: "b"})
}

func (r *fakeRelay) info() tunnel.RelayInfo {
	return tunnel.RelayInfo{Identity: r.id.String(), Host: "127.0.0.1", Ports: r.ports()}
}

// tell has relays tell of all relays.
func tell(relays ...*fakeRelay) {
	var list []tunnel.RelayInfo
	for _, r := range relays {
		list = append(list, r.info())
	}
	for _, r := range relays {
		r.set(func(r *fakeRelay) { r.hello.Relays, r.relays = list, list })
	}
}

// endpoint is a relay in a configuration.
func (r *fakeRelay) endpoint() config.Endpoint {
	return config.Endpoint{Host: "127.0.0.1", TLS: portOf(r.tcp.Addr())}
}

// wantStream uses a stream by a relay's own ingress.
func wantStream(t *testing.T, r *fakeRelay) {
	t.Helper()
	s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
	if err != nil {
		t.Fatalf("%s: %v", r.id, err)
	}
	if got := exchange(t, s, 100_000); got.Reason != bundle.CodeOK {
		t.Errorf("%s: %+v", r.id, got)
	}
}

// A connector keeps control and bulk sessions to each of two relays, which it
// names or learns, and is one process to both.
func TestTwoRelays(t *testing.T) {
	for name, named := range map[string]bool{"named": true, "learnt": false} {
		t.Run(name, func(t *testing.T) {
			a, b := twoRelays(t)
			if !named {
				tell(a, b)
			}
			opt := a.options(t, config.CarrierTLS)
			if _, err := Register(t.Context(), opt); err != nil {
				t.Fatal(err)
			}
			opt.File.Stores, opt.File.Relays = stores(portOf(echo(t).Addr())), nil
			if named {
				opt.File.Relays, opt.File.RelaysOnly = []config.Endpoint{a.endpoint(), b.endpoint()}, true
			}
			p := run(t, opt.File)
			var said []string
			for _, r := range []*fakeRelay{a, b} {
				control, bulk := r.both()
				said = append(said, control.hello.Incarnation, bulk.hello.Incarnation)
				wantStream(t, r)
			}
			if len(slices.Compact(said)) != 1 {
				t.Errorf("incarnations %v", said)
			}
			rep := p.status(func(r *Report) bool { return len(r.Sessions) == 4 })
			if len(rep.Relays) != 2 || !rep.Relays[0].Online || !rep.Relays[1].Online || rep.Relays[0].Identity == rep.Relays[1].Identity || !rep.Online {
				t.Errorf("status %+v", rep.Relays)
			}

			a.stop()
			rep = p.status(func(r *Report) bool {
				return len(r.Sessions) == 2 && !r.Relays[0].Online && r.Relays[0].LastError != nil
			})
			if !rep.Online || rep.Relays[0].Online || !rep.Relays[1].Online || rep.Relay != rep.Relays[1].Relay {
				t.Errorf("status %+v", rep)
			}
			wantStream(t, b)
			// One that starts while the relay that it registered at is away
			// begins with the other one.
			p.stop()
			again := run(t, opt.File)
			<-again.ready
			again.status(func(r *Report) bool {
				return len(r.Sessions) == 2 && r.Relays[1].Online && r.Relays[1].Identity == b.id.String()
			})
		})
	}
}

// What a relay tells while a session is up counts at once, and is kept.
func TestRelayAppears(t *testing.T) {
	a, b := twoRelays(t)
	p := start(t, a, portOf(echo(t).Addr()), config.CarrierTLS)
	v, _ := a.both()
	foreign := b.info()
	foreign.Identity = strings.Replace(foreign.Identity, "0123", "3210", 1)
	if err := v.Notify(tunnel.TypeRelays, tunnel.Relays{Relays: []tunnel.RelayInfo{a.info(), foreign}}); err != nil {
		t.Fatal(err)
	}
	if err := v.Notify(tunnel.TypeRelays, tunnel.Relays{Relays: []tunnel.RelayInfo{a.info(), b.info()}}); err != nil {
		t.Fatal(err)
	}
	b.both()
	wantStream(t, b)
	until(t, "the relays are saved", func() bool {
		raw, err := os.ReadFile(filepath.Join(p.dir, fileRegistration))
		return err == nil && strings.Contains(string(raw), b.id.String())
	})
	p.stop()
	if p.err != nil {
		t.Error(p.err)
	}
}

// A relay that does not know the node yet is asked again; only when none knows
// it, the node gives up.
func TestRelayDoesNotKnowYet(t *testing.T) {
	a, b := twoRelays(t)
	unknown := tunnel.Errorf("node-unknown", "registration", "register the machine again", "the relay has no node corp/n1")
	b.set(func(r *fakeRelay) { r.refuse = unknown })
	opt := a.options(t, config.CarrierTLS)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	opt.File.Stores, opt.File.Relays = stores(portOf(echo(t).Addr())), []config.Endpoint{a.endpoint(), b.endpoint()}
	opt.File.RelaysOnly = true
	p := run(t, opt.File)
	a.next(tunnel.RoleControl)
	rep := p.status(func(r *Report) bool { return r.Online && r.Relays[1].LastError != nil })
	if rep.Relays[1].LastError.Code != "node-unknown" {
		t.Errorf("last error %+v", rep.Relays[1].LastError)
	}
	b.set(func(r *fakeRelay) { r.refuse = nil })
	b.next(tunnel.RoleControl)
	for _, r := range []*fakeRelay{a, b} {
		r.set(func(r *fakeRelay) { r.refuse = unknown })
		for _, v := range r.up() {
			_ = v.Close("deleted")
		}
	}
	wantSpoken(t, p.ended(), "node-unknown", "registration", "register the machine again")
}

// Two names of one relay are one relay.
func TestRelayTwice(t *testing.T) {
	a, _ := twoRelays(t)
	opt := a.options(t, config.CarrierTLS)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	same := a.endpoint()
	same.Host = "localhost"
	opt.File.Stores, opt.File.Relays = stores(1), []config.Endpoint{a.endpoint(), same}
	opt.File.RelaysOnly = true
	p := run(t, opt.File)
	rep := p.status(func(r *Report) bool { return r.LastError != nil && r.Relays[0].Online != r.Relays[1].Online })
	if rep.LastError.Code != "relay-twice" || len(rep.Relays) != 2 || rep.Relays[0].Online == rep.Relays[1].Online {
		t.Errorf("status %+v", rep)
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(deadline) {
			t.Fatal(what + ": not within a minute")
		}
		<-time.After(5 * time.Millisecond)
	}
}
