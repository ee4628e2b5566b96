package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// ebbgate returns what starts a relay and a connector whose session is on a carrier. The job enters by the relay's
// CONNECT ingress, or by a forward whose session is on the same carrier.
func ebbgate(carrier string, forward bool) func(context.Context, *site) (*path, error) {
	return func(ctx context.Context, s *site) (*path, error) {
		if s.noBinary != nil {
			return nil, &notRunError{s.noBinary.Error()}
		}
		p := &path{}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := p.ebbgate(ctx, s, carrier, forward); err != nil {
			p.stop()
			return nil, err
		}
		return p, nil
	}
}

func (p *path) ebbgate(ctx context.Context, s *site, carrier string, forward bool) error {
	const gateway, store, target = "corp", "store", "corp/store"
	dir := filepath.Join(s.dir, fmt.Sprintf("ebbgate-%s-%t", carrier, forward))
	program := rig.Program{Path: s.binary}
	relay, err := rig.StartRelay(ctx, program, rig.RelayOptions{Dir: filepath.Join(dir, "relay")})
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
	p.way = way{
		Ingress: &rig.Ingress{Addr: relay.Connect, Job: "bench", Token: token},
		Target:  store + "." + gateway + ":0",
	}
	if !forward {
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
