package main

import (
	"context"
	"path/filepath"
	"strings"
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

// ends are the names of everything.
const (
	gatewayName = "corp"
	storeName   = "store"
	target      = gatewayName + "/" + storeName
	jobName     = "bench"
	nodeName    = "node"
)

func (p *path) ebbgate(ctx context.Context, s *site, carrier string, by entry) error {
	relay, err := p.relay(ctx, s, rig.RelayOptions{Dir: filepath.Join(s.dir, "relay"), Hostname: s.near.addr})
	if err != nil {
		return err
	}
	token, err := p.rest(ctx, s, carrier)
	if err != nil {
		return err
	}
	switch by {
	case byConnect:
		p.way = way{
			Ingress: &rig.Ingress{Addr: relay.Connect, Job: jobName, Token: token}, Target: storeName + "." + gatewayName + ":0",
		}
		return nil
	case byPort:
		p.way = way{Addr: relay.Ports[0]}
		return nil
	}
	return p.forward(ctx, s, carrier, token)
}

// relay starts a relay.
func (p *path) relay(ctx context.Context, s *site, o rig.RelayOptions) (*rig.Relay, error) {
	o.Config = map[string]any{"ingress": map[string]any{
		"connect": "127.0.0.1:0", "ports": []any{map[string]any{"listen": "127.0.0.1:0", "target": target, "job": jobName}},
	}}
	if s.near != here {
		at := s.near
		at.addr = o.Hostname
		addrs, err := at.free(2)
		if err != nil {
			return nil, err
		}
		o.Listen, o.HTTP = addrs[0], addrs[1]
	}
	relay, err := rig.StartRelay(ctx, rig.Program{Path: s.binary, Where: s.near.where, Env: defaults}, o)
	if err != nil {
		return nil, err
	}
	p.add("relay", relay.Process)
	p.relays = append(p.relays, relay)
	return relay, nil
}

// rest makes the gateway and the job at the first relay, starts the node, and returns the job's token when the node is
// online at all relays.
func (p *path) rest(ctx context.Context, s *site, carrier string) (token string, err error) {
	relay := p.relays[0]
	keys, err := relay.CreateGateway(ctx, gatewayName)
	if err != nil {
		return "", err
	}
	if token, err = relay.CreateJob(ctx, jobName, target); err != nil {
		return "", err
	}
	connector, err := rig.StartConnector(ctx, rig.Program{Path: s.binary, Where: s.far.where, Env: defaults}, rig.ConnectorOptions{
		Dir: filepath.Join(s.dir, "connector"), Relay: relay.Address, Key: keys.Key1, Name: nodeName,
		Carriers: []string{carrier}, Stores: []rig.Store{rig.Loopback(storeName, s.store)}, Config: s.connector,
	})
	if err != nil {
		return "", err
	}
	p.add("node", connector.Process)
	for _, r := range p.relays {
		if _, err := r.Await(ctx, gatewayName, nodeName, rig.Online); err != nil {
			return "", err
		}
	}
	return token, nil
}

// forward starts what stands beside the job.
func (p *path) forward(ctx context.Context, s *site, carrier, token string) error {
	var relays []string
	for _, r := range p.relays {
		relays = append(relays, r.Address)
	}
	f, err := rig.StartForward(ctx, rig.Program{Path: s.binary, Where: s.near.where, Env: defaults}, rig.ForwardOptions{
		Dir: filepath.Join(s.dir, "job"), Relay: strings.Join(relays, ","), Token: token, Target: target, Carriers: []string{carrier},
	})
	if err != nil {
		return err
	}
	p.add("job", f.Process)
	p.way = way{Addr: f.Addr, Relay: strings.Join(relays, ","), Token: token, Carrier: carrier}
	return nil
}
