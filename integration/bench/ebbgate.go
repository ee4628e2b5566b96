package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// entry is how the job enters.
type entry string

const (
	byConnect entry = "connect" // the relay's CONNECT ingress
	byPort    entry = "port"    // a TCP port of the relay
	byForward entry = "forward" // beside the job, its session on the same carrier
)

// defaults undo what the rig does to keep tests short.
var defaults = []string{"EBBGATE_RELAYD_RESUME_GRACE=120s", "EBBGATE_CONNECTOR_RESUME_GRACE=120s", "EBBGATE_RESUME_GRACE=120s"}

// lanes returns what starts a path whose node has at most so many lanes a bundle.
func lanes(most int, start func(context.Context, *site) (*path, error)) func(context.Context, *site) (*path, error) {
	return func(ctx context.Context, s *site) (*path, error) {
		limited := *s
		limited.connector = map[string]any{"lanes": map[string]any{"max": most}}
		return start(ctx, &limited)
	}
}

// ebbgate returns what starts a relay and a connector whose session is on a carrier.
func ebbgate(carrier string, by entry) func(context.Context, *site) (*path, error) {
	return func(ctx context.Context, s *site) (*path, error) {
		if s.noBinary != nil {
			return nil, &notRunError{s.noBinary.Error()}
		}
		p := &path{}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := p.ebbgate(ctx, s, carrier, by); err != nil {
			p.stop()
			return nil, err
		}
		return p, nil
	}
}

func (p *path) ebbgate(ctx context.Context, s *site, carrier string, by entry) error {
	const gateway, store, target = "corp", "store", "corp/store"
	near := rig.Program{Path: s.binary, Where: s.near.where, Env: defaults}
	far := rig.Program{Path: s.binary, Where: s.far.where, Env: defaults}
	o := rig.RelayOptions{
		Dir: filepath.Join(s.dir, "relay"), Hostname: s.near.addr,
		Config: map[string]any{"ingress": map[string]any{
			"connect": "127.0.0.1:0", "ports": []any{map[string]any{"listen": "127.0.0.1:0", "target": target, "job": "bench"}},
		}},
	}
	if s.near != here {
		addrs, err := s.near.free(2)
		if err != nil {
			return err
		}
		o.Listen, o.HTTP = addrs[0], addrs[1]
	}
	relay, err := rig.StartRelay(ctx, near, o)
	if err != nil {
		return err
	}
	p.add("relay", relay.Process)
	p.relays = append(p.relays, relay)
	keys, err := relay.CreateGateway(ctx, gateway)
	if err != nil {
		return err
	}
	token, err := relay.CreateJob(ctx, "bench", target)
	if err != nil {
		return err
	}
	connector, err := rig.StartConnector(ctx, far, rig.ConnectorOptions{
		Dir: filepath.Join(s.dir, "connector"), Relay: relay.Address, Key: keys.Key1, Name: "node",
		Carriers: []string{carrier}, Stores: []rig.Store{rig.Loopback(store, s.store)}, Config: s.connector,
	})
	if err != nil {
		return err
	}
	p.add("node", connector.Process)
	if _, err := relay.Await(ctx, gateway, "node", rig.Online); err != nil {
		return err
	}
	switch by {
	case byConnect:
		p.way = way{Ingress: &rig.Ingress{Addr: relay.Connect, Job: "bench", Token: token}, Target: store + "." + gateway + ":0"}
		return nil
	case byPort:
		p.way = way{Addr: relay.Ports[0]}
		return nil
	}
	f, err := rig.StartForward(ctx, near, rig.ForwardOptions{
		Dir: filepath.Join(s.dir, "job"), Relay: relay.Address, Token: token, Target: target, Carriers: []string{carrier},
	})
	if err != nil {
		return err
	}
	p.add("job", f.Process)
	p.way = way{Addr: f.Addr}
	return nil
}

// two is a path with two relays.
func two(context.Context, *site) (*path, error) { return nil, &notRunError{"no second relay yet"} }
