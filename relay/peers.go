package relay

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

// peersEvery is how often a relay says that it is alive, and looks for others.
const peersEvery = 2 * time.Second

// peers are the relays that share this one's state, itself included.
type peers struct {
	r     *Relay
	state *state.Peers // nil: there can be no others

	mu sync.Mutex
	// guarded by mu
	list []tunnel.RelayInfo
}

// meetPeers registers this relay with the others, where there may be others. The
// relay listens: its ports are known.
func (r *Relay) meetPeers(ctx context.Context) (*peers, error) {
	p := &peers{r: r}
	ports, err := json.Marshal(r.ports())
	if err != nil {
		return nil, err
	}
	self := state.Relay{Name: r.name.Name, Host: r.cfg.File.Hostname, Ports: string(ports)}
	if p.state, err = r.state.Peers(ctx, self, strconv.FormatUint(r.incarnation, 16)); err != nil || p.state == nil {
		return p, err
	}
	list, err := p.state.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	p.take(list)
	return p, nil
}

// keep keeps the list until ctx ends.
func (p *peers) keep(ctx context.Context) {
	if p.state == nil {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(peersEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err := p.state.Leave(context.WithoutCancel(ctx)); err != nil {
				p.r.log.Debug("the other relays were not told of the end", "error", err)
			}
			return
		}
		list, err := p.state.Refresh(ctx)
		switch {
		case err == nil:
			if p.take(list) {
				p.tell()
			}
		case ctx.Err() == nil && !p.r.state.Away():
			p.r.log.Warn("the other relays cannot be asked for", "error", err)
		}
	}
}

// take takes a list over and tells whether it has changed.
func (p *peers) take(all []state.Relay) (changed bool) {
	var list []tunnel.RelayInfo
	for _, r := range all {
		info := tunnel.RelayInfo{Host: r.Host, Identity: p.identity(r.Name).String()}
		if err := json.Unmarshal([]byte(r.Ports), &info.Ports); err != nil {
			p.r.log.Warn("a relay's ports cannot be read", "relay", r.Name, "error", err)
			continue
		}
		list = append(list, info)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(p.list, list) {
		return false
	}
	p.list = list
	var names []string
	for _, info := range list {
		names = append(names, info.Host)
	}
	p.r.log.Info("relays of this instance", "relays", names)
	return true
}

func (p *peers) identity(name string) certs.Identity {
	return certs.Identity{TrustDomain: p.r.state.Instance(), Role: certs.RoleRelay, Name: name}
}

// infos are what connectors and clients are told; nil where this relay is alone.
func (p *peers) infos() []tunnel.RelayInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.list) < 2 {
		return nil
	}
	return p.list // never changed, only replaced
}

// tell tells everybody who has a session of the list.
func (p *peers) tell() {
	list := p.infos()
	for _, s := range p.r.registry.sessions() {
		_ = s.Notify(tunnel.TypeRelays, tunnel.Relays{Relays: list})
	}
}

// known looks something up. What is not found may have been made at another relay
// a moment ago: then it is looked up again, once its changes are here.
func known[T any](ctx context.Context, s *state.State, find func() (T, error)) (T, error) {
	found, err := find()
	if err == nil || !s.CatchUp(ctx) {
		return found, err
	}
	return find()
}
