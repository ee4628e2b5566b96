package main

import (
	"context"
	"fmt"
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
	dir := filepath.Join(s.dir, fmt.Sprintf("ebbgate-%s-%s", carrier, by))
	program := rig.Program{Path: s.binary}
	relay, err := rig.StartRelay(ctx, program, rig.RelayOptions{
		Dir: filepath.Join(dir, "relay"),
		Config: map[string]any{"ingress": map[string]any{
			"connect": "127.0.0.1:0", "ports": []any{map[string]any{"listen": "127.0.0.1:0", "target": target, "job": "bench"}},
		}},
	})
	if err != nil {
		return err
	}
	p.add("relay", relay.Process)
	keys, err := relay.CreateGateway(ctx, gateway)
	if err != nil {
		return err
	}
	token, err := relay.CreateJob(ctx, "bench", target)
	if err != nil {
		return err
	}
	connector, err := rig.StartConnector(ctx, program, rig.ConnectorOptions{
		Dir: filepath.Join(dir, "connector"), Relay: relay.Address, Key: keys.Key1, Name: "node",
		Carriers: []string{carrier}, Stores: []rig.Store{rig.Loopback(store, s.store)},
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
	f, err := rig.StartForward(ctx, program, rig.ForwardOptions{
		Dir: filepath.Join(dir, "job"), Relay: relay.Address, Token: token, Target: target, Carriers: []string{carrier},
	})
	if err != nil {
		return err
	}
	p.add("job", f.Process)
	p.way = way{Addr: f.Addr}
	return nil
}
