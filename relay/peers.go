package relay

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

// peersEvery is how often a relay says that it is alive, and looks for others.
const peersEvery = time.Second

// peersKnown is for how long it counts what other relays said, after they could
// last be asked.
const peersKnown = 15 * time.Second

// gather is how long what happens to nodes is gathered before it is told.
const gather = 50 * time.Millisecond

// peers are the relays that share this one's state, itself included.
type peers struct {
	r     *Relay
	state *state.Peers  // set before the relay serves; nil: there can be no others
	kick  chan struct{} // has room for one: there is something to tell
	// leaving is closed by drain.
	leaving chan struct{}
	tasks   sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	list    []tunnel.RelayInfo
	seen    time.Time                                     // when the others were last looked at
	alive   map[string]string                             // other relays and their hosts
	said    map[string]map[gatewayKey]map[string]sighting // by relay, gateway and node
	dirty   map[nodeKey]struct{}                          // not told yet
	refused map[refusal]time.Time
}

func newPeers(r *Relay) *peers {
	return &peers{
		r: r, kick: make(chan struct{}, 1), leaving: make(chan struct{}), said: make(map[string]map[gatewayKey]map[string]sighting),
		dirty: make(map[nodeKey]struct{}), refused: make(map[refusal]time.Time),
	}
}

// meet registers this relay with the others, where there may be others. The relay
// listens: its ports are known.
func (p *peers) meet(ctx context.Context) error {
	r := p.r
	ports, err := json.Marshal(r.ports())
	if err != nil {
		return err
	}
	self := state.Relay{Name: r.name.Name, Host: r.cfg.File.Hostname, Ports: string(ports)}
	if p.state, err = r.state.Peers(ctx, self, strconv.FormatUint(r.incarnation, 16)); err != nil || p.state == nil {
		return err
	}
	found, _, err := p.state.Refresh(ctx)
	if err != nil {
		return err
	}
	p.take(found.Relays)
	p.hear(ctx, found)
	return nil
}

// keep speaks with the other relays until ctx ends.
func (p *peers) keep(ctx context.Context) {
	if p.state == nil {
		<-ctx.Done()
		return
	}
	defer p.tasks.Wait()
	tick, report := time.NewTicker(peersEvery), time.NewTicker(reportEvery)
	defer tick.Stop()
	defer report.Stop()
	gathering := time.NewTimer(0)
	defer gathering.Stop()
	for {
		var err error
		select {
		case <-p.kick:
			gathering.Reset(gather)
			continue
		case <-report.C:
			p.markAll()
			continue
		case <-gathering.C:
			err = p.publish(ctx)
		case <-tick.C:
			err = errors.Join(p.publish(ctx), p.look(ctx))
		case <-p.state.Changed():
			err = p.look(ctx)
		case <-p.leaving:
			p.leave(ctx)
			<-ctx.Done()
			return
		case <-ctx.Done():
			p.leave(context.WithoutCancel(ctx))
			return
		}
		if err != nil && ctx.Err() == nil && !p.r.state.Away() {
			p.r.log.Warn("the other relays cannot be asked", "error", err)
		}
	}
}

// leave tells the others that this relay's nodes are no longer to be had here.
func (p *peers) leave(ctx context.Context) {
	if err := p.state.Leave(ctx); err != nil {
		p.r.log.Debug("the other relays were not told of the end", "error", err)
	}
}

// look takes over what the others say.
func (p *peers) look(ctx context.Context) error {
	found, anew, err := p.state.Refresh(ctx)
	if anew {
		p.markAll()
	}
	if err != nil {
		return err
	}
	p.hear(ctx, found)
	if p.take(found.Relays) {
		p.tell()
	}
	return nil
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
