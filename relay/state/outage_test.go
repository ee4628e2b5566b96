package state

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/state/postgrestest"
)

// records are what was logged.
type records struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

// TestOutages takes the database away from two relays in many ways. Reads go on,
// changes fail and say why, and when it is back, they are made, and followed,
// without a restart.
func TestOutages(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	url := server.Database(t)
	var log records
	passwordFile := filepath.Join(t.TempDir(), "password")
	writePassword := func(text string) {
		if err := os.WriteFile(passwordFile, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writePassword(postgrestest.Password)
	at, err := config.ParsePostgres(strings.Replace(url, ":"+postgrestest.Password, "", 1), passwordFile)
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: at, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	a := stateIn(t, opt)
	b := stateIn(t, sibling(t, opt))
	follows(t, a, func([]JobEnd) {})
	follows(t, b, func([]JobEnd) {})
	ctx := t.Context()
	must[Gateway](t)(a.CreateGateway(ctx, DefaultTenant, "corp"))
	until(t, "both know the same", func() bool { return cmp.Equal(content(a), content(b)) })

	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	const changed = "incoming-tide"
	for _, outage := range []struct {
		name       string
		begin, end func()
		text       string
		follows    bool // it can be read
	}{
		{"stopped", server.Stop, func() { check(server.Restart()) }, "cannot be reached", false},
		{"killed", server.Kill, func() { check(server.Restart()) }, "cannot be reached", false},
		{"frozen", func() { check(server.Freeze()) }, func() { check(server.Thaw()) }, "does not answer", false},
		{"read-only", func() { server.Stop(); check(server.Restart("default_transaction_read_only=on")) }, func() { server.Stop(); check(server.Restart()) }, "read-only", true},
		{"password changed", func() {
			server.Exec(t, "postgres", "ALTER ROLE relay PASSWORD '"+changed+"'")
			server.Stop()
			check(server.RestartAs(changed))
		}, func() { writePassword(changed) }, "user or password", false},
		{"database gone", func() {
			server.Stop()
			check(server.Restart())
			name := filepath.Base(url)
			server.Exec(t, "postgres", "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false") // the relays are quick to come back
			server.Exec(t, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'")
			server.Exec(t, "postgres", "ALTER DATABASE "+name+" RENAME TO elsewhere")
		}, func() {
			server.Exec(t, "postgres", "ALTER DATABASE elsewhere RENAME TO "+filepath.Base(url))
			server.Exec(t, "postgres", "ALTER DATABASE "+filepath.Base(url)+" ALLOW_CONNECTIONS true")
		}, "no such database", false},
	} {
		before := content(a)
		outage.begin()
		for _, s := range []*State{a, b} {
			last := ""
			until(t, outage.name+": a change says "+outage.text, func() bool {
				_, err := s.CreateGateway(ctx, DefaultTenant, "during-"+strings.ReplaceAll(outage.name, " ", "-"))
				wantError(t, err, ErrUnavailable, "state-unavailable")
				wantSame(t, content(s), before)
				if err.Error() != last {
					last = err.Error()
					t.Logf("%s: %v", outage.name, err)
				}
				return strings.Contains(err.Error(), outage.text)
			})
		}
		if !outage.follows {
			until(t, outage.name+": both know that it is away", func() bool { return a.Away() && b.Away() })
			if a.CatchUp(ctx) {
				t.Errorf("%s: caught up", outage.name)
			}
		}
		outage.end()
		until(t, outage.name+": changes are made again", func() bool {
			_, err := a.CreateGateway(ctx, DefaultTenant, "after-"+strings.ReplaceAll(outage.name, " ", "-"))
			if err != nil && !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			return err == nil
		})
		until(t, outage.name+": both know the same", func() bool {
			return !a.Away() && !b.Away() && cmp.Equal(content(a), content(b))
		})
	}
	_, err = Open(ctx, opt)
	wantError(t, err, ErrInUse, "state-in-use")

	server.Stop()
	third := sibling(t, opt)
	wantError(t, Init(ctx, third), ErrUnavailable, "state-unavailable")
	check(b.Close())
	_, err = Open(ctx, b.opt)
	wantError(t, err, ErrUnavailable, "state-unavailable")
	check(os.Remove(passwordFile))
	_, err = Open(ctx, b.opt)
	wantError(t, err, ErrUnavailable, "state-unavailable")
	if !strings.Contains(err.Error(), passwordFile) {
		t.Error(err)
	}
	for _, secret := range []string{postgrestest.Password, changed} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has the password %s", secret)
		}
	}
	if !strings.Contains(log.String(), "is back") || !strings.Contains(log.String(), "cannot be followed") {
		t.Errorf("log:\n%s", log.String())
	}
}

// TestWentBack restores an older copy of the database under a running relay: it
// says so, and goes on with what there is.
func TestWentBack(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	url := server.Database(t)
	var log records
	opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: postgresAt(t, url), Logger: slog.New(slog.NewTextHandler(&log, nil))}
	s := stateIn(t, opt)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "kept"))
	for _, table := range tables {
		server.Exec(t, url, "CREATE TABLE backup_"+table+" AS SELECT * FROM "+table)
	}
	old := content(s)
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "lost"))
	restore := "BEGIN;"
	for i := range tables {
		restore += "DELETE FROM " + tables[len(tables)-1-i] + ";"
	}
	for _, table := range tables {
		restore += "INSERT INTO " + table + " SELECT * FROM backup_" + table + ";"
	}
	server.Exec(t, url, restore+"COMMIT")
	follows(t, s, func([]JobEnd) {})
	until(t, "the older state", func() bool { return cmp.Equal(content(s), old) })
	if !strings.Contains(log.String(), "went back") {
		t.Errorf("log: %s", log.String())
	}
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "new"))
}

// TestPeers registers relays, and has them tell each other of nodes.
func TestPeers(t *testing.T) {
	t.Parallel()
	url := sharedServer(t).Database(t)
	opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: postgresAt(t, url)}
	a := stateIn(t, opt)
	other := sibling(t, opt)
	b := stateIn(t, other)
	ctx := t.Context()
	follows(t, b, func([]JobEnd) {})
	alone, err := stateIn(t, options(t)).Peers(ctx, Relay{Name: "x"}, "1")
	if alone != nil || err != nil {
		t.Errorf("peers with SQLite: %v, %v", alone, err)
	}
	pa := must[*Peers](t)(a.Peers(ctx, Relay{Name: "a", Host: "a.example.com", Ports: `{"tls":443}`}, "1"))
	_, err = b.Peers(ctx, Relay{Name: "a", Host: "a.example.com"}, "2")
	wantError(t, err, ErrInUse, "relay-name-taken")
	pb := must[*Peers](t)(b.Peers(ctx, Relay{Name: "b", Host: "b.example.com", Ports: `{"tls":8443}`}, "2"))
	look := func(p *Peers) Sight {
		t.Helper()
		found, _, err := p.Refresh(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	first := look(pb)
	if len(first.Relays) != 2 || first.Relays[0].Host != "a.example.com" || !first.Relays[0].Alive || first.Relays[1].Ports != `{"tls":8443}` {
		t.Errorf("relays: %+v", first.Relays)
	}
	if !cmp.Equal(first.Anew, []string{"a"}) {
		t.Errorf("anew: %v", first.Anew)
	}
	said := []Presence{{Tenant: DefaultTenant, Gateway: "corp", Node: "n1", Online: true, Detail: "{}"}, {Tenant: DefaultTenant, Gateway: "corp", Node: "n2", Detail: "{}"}}
	if err := pa.Publish(ctx, said); err != nil {
		t.Fatal(err)
	}
	<-pb.Changed()
	for i := range said {
		said[i].Relay = "a"
	}
	if found := look(pb); !cmp.Equal(found.Changed, said) {
		t.Error(cmp.Diff(said, found.Changed))
	}
	if found := look(pb); len(found.Changed)+len(found.Anew) > 0 {
		t.Errorf("nothing changed: %+v", found)
	}
	if err := pa.Publish(ctx, said[1:]); err != nil {
		t.Fatal(err)
	}
	if found := look(pb); !cmp.Equal(found.Changed, said[1:]) {
		t.Error(cmp.Diff(said[1:], found.Changed))
	}
	// A row that nobody with the key wrote is no word of a relay.
	sharedServer(t).Exec(t, url, `UPDATE presence SET online = 0, epoch = epoch + 9; UPDATE relays SET epoch = epoch + 9 WHERE name = 'a'`)
	if found := look(pb); !cmp.Equal(found.Changed, said[1:]) {
		t.Errorf("changed: %v", found.Changed)
	}
	sharedServer(t).Exec(t, url, `UPDATE relays SET host = 'evil.example.com' WHERE name = 'a'`)
	if found := look(pb); len(found.Relays) != 1 {
		t.Errorf("relays: %+v", found.Relays)
	}
	pa = must[*Peers](t)(a.Peers(ctx, Relay{Name: "a", Host: "a.example.com", Ports: `{"tls":443}`}, "3")) // restarted
	if found := look(pb); !cmp.Equal(found.Anew, []string{"a"}) || len(found.Changed) != 0 {
		t.Errorf("after a restart: %+v", found)
	}
	if err := pa.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	if found := look(pb); len(found.Relays) != 2 || found.Relays[0].Alive {
		t.Errorf("after its end: %+v", found.Relays)
	}
	// With another name it is not there twice.
	must[*Peers](t)(a.Peers(ctx, Relay{Name: "c", Host: "c.example.com", Ports: "{}"}, "5"))
	if found := look(pb); len(found.Relays) != 2 || found.Relays[0].Name != "b" || found.Relays[1].Name != "c" {
		t.Errorf("with another name: %+v", found.Relays)
	}
	// Nobody has it any more: its name may be another's.
	must[*Peers](t)(b.Peers(ctx, Relay{Name: "a", Host: "a.example.com"}, "4"))
}
