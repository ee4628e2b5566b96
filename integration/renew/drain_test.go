//go:build linux

package renew

import (
	"context"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
	"github.com/ebbgate/ebbgate/relay/state/postgrestest"
)

// TestDrainMoves: of two relays one is told to stop in the middle of a copy, with all the time that it wants. It ends
// because what it moved goes through the other one, and the copy goes on, byte for byte, with no lane lost.
func TestDrainMoves(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	server := postgrestest.Start(t)
	database := server.Database(t)
	binary, remove, err := rig.Build(ctx)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(err)
	defer remove()
	program := rig.Program{Path: binary}
	var relays []*rig.Relay
	for i, host := range []string{"127.0.0.1", "127.0.0.2"} {
		o := rig.RelayOptions{Dir: t.TempDir(), Hostname: host, Postgres: database, Flags: []string{"--drain-timeout", "1h"}}
		if i > 0 {
			o.KeyOf = relays[0]
		}
		r, err := rig.StartRelay(ctx, program, o)
		check(err)
		defer r.Kill()
		relays = append(relays, r)
	}
	s := newStore(t)
	keys, err := relays[0].CreateGateway(ctx, gateway)
	check(err)
	token, err := relays[0].CreateJob(ctx, job, gateway+"/"+object)
	check(err)
	connector, err := rig.StartConnector(ctx, program, rig.ConnectorOptions{
		Dir: t.TempDir(), Relay: relays[0].Address, Key: keys.Key1, Name: "node1", Carriers: []string{"tls"}, Stores: []rig.Store{rig.Loopback(object, s.addr)},
	})
	check(err)
	defer connector.Kill()
	for _, r := range relays {
		_, err := r.Await(ctx, gateway, "node1", func(n rig.Node) bool { return rig.Online(n) && len(slices.Compact(n.Relays)) == 2 })
		check(err)
	}
	forward, err := rig.StartForward(ctx, program, rig.ForwardOptions{
		Dir: t.TempDir(), Relay: relays[0].Address, Token: token, Target: gateway + "/" + object, Carriers: []string{"tls"},
	})
	check(err)
	defer forward.Kill()

	conn, err := net.Dial("tcp", forward.Addr)
	check(err)
	at, done := new(progress), make(chan result, 1)
	go func() { done <- exchange(conn.(*net.TCPConn), upSeed, downSeed, s.enough, at) }()
	goOn := func() {
		t.Helper()
		from, look := at.bytes(), time.NewTicker(10*time.Millisecond)
		defer look.Stop()
		for at.bytes() < from+least {
			select {
			case <-look.C:
			case r := <-done:
				t.Fatalf("the copy is over: %+v; the forward says:\n%s", r, forward.Tail())
			case <-ctx.Done():
				t.Fatalf("the copy stands still; the forward says:\n%s", forward.Tail())
			}
		}
	}
	goOn()
	check(relays[0].Signal(syscall.SIGTERM))
	if err := relays[0].Wait(ctx); err != nil {
		t.Fatalf("the relay that drains: %v\n%s", err, relays[0].Tail())
	}
	goOn()
	close(s.enough)
	job, store := <-done, <-s.results
	if job.err != nil || store.err != nil || job.got != store.sent || job.sent != store.got {
		t.Errorf("the job: %+v, the store: %+v", job, store)
	}
	check(forward.Signal(syscall.SIGTERM))
	_ = forward.Wait(ctx)
	last := forward.Output()
	t.Log(last[max(strings.LastIndex(strings.TrimSpace(last), "\n"), 0):])
}
