package connector

import (
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

func TestReconnect(t *testing.T) {
	ca, err := certs.NewAuthority("0123456789abcdef0123456789abcdef", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, relayOptions{noQUIC: true, ca: ca})
	p := start(t, r, portOf(echo(t).Addr()))
	<-p.ready
	first := r.next(tunnel.RoleControl)
	addr := r.tcp.Addr().String()
	s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	<-s.Done() // at once: streams do not outlive their sessions yet
	off := p.status(func(r *Report) bool { return !r.Online && r.LastError != nil && r.Streams == 0 })
	if off.LastError.Hop == "" || off.LastError.Advice == "" {
		t.Errorf("last error %+v", off.LastError)
	}
	again := startRelay(t, relayOptions{noQUIC: true, ca: ca, tlsAddr: addr})
	v := again.next(tunnel.RoleControl)
	if v.hello.Incarnation != first.hello.Incarnation {
		t.Errorf("incarnation %s, was %s", v.hello.Incarnation, first.hello.Incarnation)
	}
	back, err := again.open(t.Context(), r.node("n1"), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, back, 1000); got.Reason != bundle.CodeOK {
		t.Errorf("report %+v", got)
	}
}

// Refusals of the relay: one passes by itself, the other one never does.
func TestHelloRefused(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	r.refuse = tunnel.Errorf("identity-in-use", "node", "is the connector running twice?", "another process is connected as node corp/n1 and answers")
	p := start(t, r, 1)
	rep := p.status(func(r *Report) bool { return r.LastError != nil })
	if rep.LastError.Code != "identity-in-use" || rep.LastError.Hop != "node" || rep.LastError.Advice != "is the connector running twice?" {
		t.Errorf("last error %+v", rep.LastError)
	}
	r.set(func(r *fakeRelay) { r.refuse = nil })
	<-p.ready
	r.next(tunnel.RoleControl)

	r.set(func(r *fakeRelay) {
		r.refuse = tunnel.Errorf("node-unknown", "registration", "register the machine again", "the relay has no node corp/n1")
	})
	for _, v := range r.up() {
		_ = v.Close("deleted")
	}
	wantSpoken(t, p.ended(), "node-unknown", "registration", "register the machine again")
}

// up lists the sessions that are up.
func (r *fakeRelay) up() (list []*visit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v := range r.live {
		list = append(list, v)
	}
	return list
}

func TestAutoRemembersTheCarrier(t *testing.T) {
	r := startRelay(t, relayOptions{})
	p := start(t, r, 1)
	if ready := <-p.ready; ready.Carrier != "quic" {
		t.Errorf("carrier %s", ready.Carrier)
	}
	r.next(tunnel.RoleControl)
	if rep := p.status(func(r *Report) bool { return r.Online }); len(rep.Sessions) != 1 {
		t.Errorf("sessions %+v", rep.Sessions)
	}
	p.stop()
	raw, err := os.ReadFile(filepath.Join(p.dir, fileCarriers))
	if err != nil || !strings.Contains(string(raw), `"quic"`) {
		t.Errorf("carriers.json: %s, %v", raw, err)
	}
	// A hint that is damaged is none.
	write(t, filepath.Join(p.dir, fileCarriers), "{\"x")
	again := run(t, p.c.cfg.File)
	<-again.ready
}

// The certificate is renewed over the session, with a new key each time, and
// what is on disk is what is used.
func TestRenew(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	r.set(func(r *fakeRelay) { r.life = 3 * time.Second })
	var mu sync.Mutex
	var asked []int
	r.renew = func(req tunnel.RenewCert) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, req.Counter)
		if len(asked) == 1 {
			r.set(func(r *fakeRelay) { r.life = 24 * time.Hour })
		}
		return nil
	}
	p := start(t, r, portOf(echo(t).Addr()))
	<-p.ready
	first := p.status(func(*Report) bool { return true }).CertificateExpires
	rep := p.status(func(r *Report) bool { return r.CertificateExpires.After(first) && !r.CertificateUnsaved })
	if life := time.Until(rep.CertificateExpires); life < 23*time.Hour {
		t.Errorf("the certificate lives %v", life)
	}
	p.stop()
	saved, err := certs.LoadIdentity(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(saved.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if saved.Counter != 1 || !leaf.NotAfter.Equal(rep.CertificateExpires) || len(asked) != 1 || asked[0] != 1 {
		t.Errorf("saved counter %d until %v, asked for %v", saved.Counter, leaf.NotAfter, asked)
	}
	if len(r.keys) != 2 || string(r.keys[0]) == string(r.keys[1]) {
		t.Errorf("%d keys, or the same one twice", len(r.keys))
	}
}

// A disk that takes nothing: the new certificate is used, no second one is
// asked for, and once there is room it is saved.
func TestRenewCannotSave(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	r.set(func(r *fakeRelay) { r.life = 2 * time.Second })
	opt := r.options(t)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	away := opt.File.StateDir + ".away"
	r.renew = func(tunnel.RenewCert) error {
		r.set(func(r *fakeRelay) { r.life = 24 * time.Hour; r.renew = nil })
		return os.Rename(opt.File.StateDir, away)
	}
	opt.File.Stores = stores(portOf(echo(t).Addr()))
	p := run(t, opt.File)
	<-p.ready
	p.dir = away // the socket moved with it
	rep := p.status(func(r *Report) bool { return r.CertificateUnsaved && r.LastError != nil })
	if rep.LastError.Code != "state-unavailable" || !rep.Online {
		t.Errorf("status %+v", rep)
	}
	s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, s, 1000); got.Reason != bundle.CodeOK {
		t.Errorf("report %+v", got)
	}
	old, err := certs.LoadIdentity(away)
	if err != nil || old.Counter != 0 {
		t.Errorf("the old identity: %+v, %v", old, err)
	}
	if err := os.Rename(away, opt.File.StateDir); err != nil {
		t.Fatal(err)
	}
	p.dir = opt.File.StateDir
	p.status(func(r *Report) bool { return !r.CertificateUnsaved })
	if fresh, err := certs.LoadIdentity(p.dir); err != nil || fresh.Counter != 1 {
		t.Errorf("the new identity: %+v, %v", fresh, err)
	}
}

// An answer that got lost is asked for again, for the same key and number.
func TestRenewAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a retry")
	}
	r := startRelay(t, relayOptions{noQUIC: true})
	r.set(func(r *fakeRelay) { r.life = 6 * time.Second })
	asked := make(chan tunnel.RenewCert, 8)
	r.renew = func(req tunnel.RenewCert) error {
		asked <- req
		if len(asked) == 1 {
			r.set(func(r *fakeRelay) { r.life = 24 * time.Hour })
			return tunnel.Errorf("state-unavailable", "relay", "make room", "the relay's disk is full")
		}
		return nil
	}
	p := start(t, r, 1)
	<-p.ready
	rep := p.status(func(r *Report) bool { return r.LastError != nil && r.LastError.Code == "state-unavailable" })
	if rep.LastError.Hop != "relay" {
		t.Errorf("last error %+v", rep.LastError)
	}
	p.status(func(r *Report) bool { return time.Until(r.CertificateExpires) > time.Hour })
	one, two := <-asked, <-asked
	same := publicKey(t, one.CSR) == publicKey(t, two.CSR)
	if one.Counter != two.Counter || !same {
		t.Errorf("asked for %d, then for %d; the same key: %v", one.Counter, two.Counter, same)
	}
}

// expire makes the registered node's certificate one that has expired.
func expire(t *testing.T, r *fakeRelay, dir string) *certs.Saved {
	t.Helper()
	saved, err := certs.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	der, err := r.ca.Issue(r.node("n1"), saved.Key.Public(), time.Now().Add(-90*24*time.Hour), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	saved.Chain[0] = der
	if err := certs.SaveIdentity(dir, saved); err != nil {
		t.Fatal(err)
	}
	return saved
}

func TestComeBack(t *testing.T) {
	r := startRelay(t, relayOptions{})
	opt := r.options(t)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	before := expire(t, r, opt.File.StateDir)
	returned := make(chan tunnel.Enrol, 8)
	r.set(func(r *fakeRelay) {
		r.counter = 7 // it had been renewed once more than the node knows
		r.enrol = func(req tunnel.Enrol) error { returned <- req; return nil }
	})
	p := run(t, opt.File)
	<-p.ready
	req := <-returned
	if req.Kind != tunnel.EnrolReturn || req.Identity != r.node("n1").String() {
		t.Errorf("enrolled with %+v", req)
	}
	p.status(func(r *Report) bool { return !r.CertificateUnsaved && r.Online })
	after, err := certs.LoadIdentity(p.dir)
	if err != nil || after.Counter != 7 || !after.Key.Equal(before.Key) {
		t.Errorf("saved %+v, %v", after, err)
	}
}

func TestComeBackOfADeletedNode(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	opt := r.options(t)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	expire(t, r, opt.File.StateDir)
	r.set(func(r *fakeRelay) {
		r.enrol = func(tunnel.Enrol) error {
			return tunnel.Errorf("node-unknown", "registration", "register the machine again", "the relay has no node with this identity and key")
		}
	})
	p := run(t, opt.File)
	wantSpoken(t, p.ended(), "node-unknown", "registration", "register")
}

// A relay that cannot be reached is no reason to end, and the status says why.
func TestUnreachable(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	opt := r.options(t, config.CarrierTLS)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	r.stop()
	p := run(t, opt.File)
	rep := p.status(func(r *Report) bool { return r.LastError != nil })
	if rep.Online || rep.LastError.Hop != "tcp" || rep.LastError.Code != "connection-refused" {
		t.Errorf("status %+v, last error %+v", rep, rep.LastError)
	}
	p.stop()
	if p.err != nil {
		t.Error(p.err)
	}
}

func TestRenewalTime(t *testing.T) {
	issued := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for range 1000 {
		at := renewalTime(issued.Add(-backdated), issued.Add(24*time.Hour))
		if after := at.Sub(issued); after < 24*time.Hour*4/10 || after > 24*time.Hour*6/10 {
			t.Fatalf("renewed after %v", after)
		}
	}
	// A certificate that expired, or lives less than what it is backdated by.
	for _, life := range []time.Duration{time.Second, 0, -time.Hour} {
		_ = renewalTime(issued.Add(-backdated), issued.Add(life)) // must not panic
	}
}

// A relay that stops says when to come back.
func TestSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(&running{}, 0)
		for _, tc := range []struct{ ms, want time.Duration }{{0, 0}, {1500, 1500 * time.Millisecond}, {1 << 40, maxPatience}} {
			r.sentAway(tunnel.Drain{ReconnectAfterMS: int(tc.ms)})
			start := time.Now()
			if err := r.patient(t.Context()); err != nil || time.Since(start) != tc.want {
				t.Errorf("waited %v, %v, want %v", time.Since(start), err, tc.want)
			}
		}
	})
}

func TestGuardLink(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	opt := r.options(t)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	// A store at the relay's own address and port is not dialled, though
	// loopback is allowed there.
	opt.File.Stores = stores(r.ports().TLS)
	p := run(t, opt.File)
	<-p.ready
	r.next(tunnel.RoleControl)
	_, err := r.open(t.Context(), r.node("n1"), "echo", nil)
	var refused *bundle.RefusedError
	if !errors.As(err, &refused) || refused.Reason != bundle.CodeAddressRefused || !strings.Contains(refused.Text, "the relay") {
		t.Errorf("open: %v", err)
	}
}

// Questions on the status socket are bounded.
func TestStatusSocket(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	p := start(t, r, 1)
	<-p.ready
	for _, question := range []string{"", "\n", "dance\n", strings.Repeat("x", 1<<16)} {
		conn, err := net.Dial("unix", filepath.Join(p.dir, fileStatus))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(question))
		_ = conn.(*net.UnixConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer := make([]byte, 100)
		n, err := conn.Read(answer)
		if errors.Is(err, os.ErrDeadlineExceeded) || n > 3 {
			t.Errorf("%.10q was answered %q, %v", question, answer[:n], err)
		}
		_ = conn.Close()
	}
	if info, err := os.Stat(filepath.Join(p.dir, fileStatus)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}
