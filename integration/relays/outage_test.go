//go:build linux

package relays

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// wantUnavailable checks that a change was refused because the database is away.
func wantUnavailable(t *testing.T, err error) {
	t.Helper()
	var e *rig.CommandError
	if !errors.As(err, &e) || e.Code != "state-unavailable" {
		t.Errorf("got %v, want state-unavailable", err)
	}
}

// talk says something on an open stream and hears it again.
func talk(ctx context.Context, conn net.Conn, text string) error {
	limit, ok := ctx.Deadline()
	if !ok {
		return errors.New("no deadline")
	}
	if err := conn.SetDeadline(limit); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	answer := make([]byte, len(text))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != text {
		return fmt.Errorf("%q: %w", answer, err)
	}
	return nil
}

// TestOutage takes the database away from two relays while a stream is open: it
// goes on, new ones are opened, a connector comes back; only changes fail. Then it
// is back, and a job that is revoked at one relay ends at the other.
func TestOutage(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := startPair(ctx, t)
	keys, err := p.a.CreateGateway(ctx, "corp")
	if err != nil {
		t.Fatal(err)
	}
	c := p.connector(ctx, t, keys.Key1, p.b)
	token, err := p.a.CreateJob(ctx, "copy", "corp/erp")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := rig.Ingress{Addr: p.b.Connect, Job: "copy", Token: token}.Dial(ctx, "erp.corp:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	for _, outage := range []struct {
		name       string
		begin, end func() error
	}{
		{"frozen", p.server.Freeze, p.server.Thaw},
		{"killed", func() error { p.server.Kill(); return nil }, func() error { return p.server.Restart() }},
	} {
		if err := outage.begin(); err != nil {
			t.Fatal(err)
		}
		if err := talk(ctx, stream, outage.name); err != nil {
			t.Fatalf("%s: the stream: %v", outage.name, err)
		}
		if err := ask(ctx, p.b, "copy", token); err != nil {
			t.Errorf("%s: a dial: %v", outage.name, err)
		}
		_, err := p.a.CreateJob(ctx, "late-"+outage.name, "corp/erp")
		wantUnavailable(t, err)
		wantUnavailable(t, p.b.Admin(ctx, nil, "job", "revoke", "copy"))
		if err := talk(ctx, stream, outage.name); err != nil {
			t.Fatalf("%s: the stream: %v", outage.name, err)
		}
		if outage.name == "killed" {
			c.Kill()
			if err := c.Start(ctx); err != nil {
				t.Fatalf("%s: the connector: %v", outage.name, err)
			}
			if err := ask(ctx, p.b, "copy", token); err != nil {
				t.Errorf("%s: a dial after the connector's restart: %v", outage.name, err)
			}
		}
		if err := outage.end(); err != nil {
			t.Fatal(err)
		}
		await(ctx, t, outage.name+": changes again", func() bool {
			token, err := p.a.CreateJob(ctx, "again-"+outage.name, "corp/erp")
			if err != nil {
				wantUnavailable(t, err)
				return false
			}
			await(ctx, t, "the job at the other relay", func() bool { return ask(ctx, p.b, "again-"+outage.name, token) == nil })
			return true
		})
	}
	last, err := rig.Ingress{Addr: p.b.Connect, Job: "copy", Token: token}.Dial(ctx, "erp.corp:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = last.Close() }()
	if err := talk(ctx, last, "before"); err != nil {
		t.Fatal(err)
	}
	if err := p.a.Admin(ctx, nil, "job", "revoke", "copy"); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the stream of a job that was revoked at the other relay: %v", err)
	}
	wantRefused(t, ask(ctx, p.b, "copy", token), 407, "token-invalid", "")
	wantRefused(t, ask(ctx, p.a, "copy", token), 407, "token-invalid", "")
}

// TestNames refuses a second relay with the name of one that is alive, and takes
// one that comes back.
func TestNames(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := startPair(ctx, t)
	_, err := rig.StartRelay(ctx, rig.Program{Path: binary}, rig.RelayOptions{Dir: t.TempDir(), Hostname: "127.0.0.2", Postgres: p.database, KeyOf: p.a})
	if e := (*rig.CommandError)(nil); !errors.As(err, &e) || e.Code != "relay-name-taken" {
		t.Errorf("got %v", err)
	}
	p.b.Kill()
	if err := p.b.Restart(ctx); err != nil {
		t.Error(err)
	}
	_, err = rig.StartRelay(ctx, rig.Program{Path: binary}, rig.RelayOptions{Dir: t.TempDir(), Hostname: "127.0.0.3", Postgres: p.database})
	if e := (*rig.CommandError)(nil); !errors.As(err, &e) || e.Code != "state-exists" && e.Code != "state-missing" {
		t.Errorf("without the key: %v", err)
	}
}
