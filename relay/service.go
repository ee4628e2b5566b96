package relay

import (
	"cmp"
	"context"
	"encoding/pem"
	"slices"
	"strings"

	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

// service is the relay as its API sees it.
type service struct{ r *Relay }

var _ admin.Service = service{}

func (s service) CreateGateway(ctx context.Context, tenant, name string) (admin.Gateway, error) {
	g, err := s.r.state.CreateGateway(ctx, tenant, name)
	if err != nil {
		return admin.Gateway{}, err
	}
	s.r.log.Info("gateway created", "tenant", tenant, "gateway", name)
	return s.gateway(g), nil
}

func (s service) gateway(g state.Gateway) admin.Gateway {
	return admin.Gateway{
		Name: g.Name, ID: g.ID, Created: g.Created,
		Nodes: len(s.r.state.Nodes(g.Tenant, g.Name)), Online: s.online(g.Tenant, g.Name),
	}
}

// online counts a gateway's nodes that are here or at other relays.
func (s service) online(tenant, gateway string) int {
	there := s.r.peers.elsewhere(tenant, gateway)
	here := s.r.registry.gateway(tenant, gateway)
	for _, n := range here {
		delete(there, n.key.node)
	}
	return len(here) + len(there)
}

func (s service) Gateways(_ context.Context, tenant string) (list []admin.Gateway, err error) {
	for _, g := range s.r.state.Gateways(tenant) {
		list = append(list, s.gateway(g))
	}
	return list, nil
}

func (s service) GatewayKeys(_ context.Context, tenant, name string) (admin.Keys, error) {
	key1, key2, err := s.r.state.GatewayKeys(tenant, name)
	return admin.Keys{Key1: key1, Key2: key2}, err
}

func (s service) RegenerateKey(ctx context.Context, tenant, name, slot string) (admin.Keys, error) {
	key, err := s.r.state.RegenerateKey(ctx, tenant, name, slot)
	if err != nil {
		return admin.Keys{}, err
	}
	s.r.log.Info("key regenerated", "tenant", tenant, "gateway", name, "slot", slot)
	if slot == "key1" {
		return admin.Keys{Key1: key}, nil
	}
	return admin.Keys{Key2: key}, nil
}

func (s service) Nodes(_ context.Context, tenant, gateway string) (list []admin.Node, err error) {
	if _, err := s.r.state.Gateway(tenant, gateway); err != nil {
		return nil, err
	}
	there := s.r.peers.elsewhere(tenant, gateway)
	for _, record := range s.r.state.Nodes(tenant, gateway) {
		list = append(list, s.node(record, there[record.Name]))
	}
	slices.SortFunc(list, func(a, b admin.Node) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// node is what is known of a registered node: from its session where it is here,
// else from a relay at which it is.
func (s service) node(record state.Node, there []elsewhere) admin.Node {
	a := s.nodeHere(record)
	if a.Status == "Offline" && len(there) > 0 {
		a = there[0].node
	} else if a.Status != "Offline" && s.r.peers.infos() != nil {
		a.Relays = append(a.Relays, s.r.cfg.File.Hostname)
	}
	for _, at := range there {
		a.Relays = append(a.Relays, at.host)
	}
	slices.Sort(a.Relays)
	return a
}

// nodeHere is what this relay knows by itself.
func (s service) nodeHere(record state.Node) admin.Node {
	key := nodeKey{record.Tenant, record.Gateway, record.Name}
	a := admin.Node{Name: record.Name, Gateway: record.Gateway, Status: "Offline", Since: record.Created, Stores: []string{}}
	for _, st := range record.Stores {
		a.Stores = append(a.Stores, st.Name)
	}
	n := s.r.registry.node(key)
	if n == nil {
		a.Reason = "not seen since the relay started"
		if d, ok := s.r.registry.departed(key); ok {
			a.Reason, a.Since = d.reason, d.at
		}
		return a
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	a.Status, a.Since, a.Version = "Online", n.since, plain(n.hello.Software, maxReported)
	if n.leaving {
		a.Status = "Draining"
	}
	h := n.report
	a.Proxy, a.CPU, a.MemoryAvailable = plain(h.Proxy, maxReported), h.CPUPercent, h.MemoryAvailable
	a.NetworkIn, a.NetworkOut = h.NetworkIn, h.NetworkOut
	a.Runs, a.ConcurrentRuns, a.Streams = h.Runs, h.ConcurrentRuns, h.Streams
	if session := cmp.Or(n.control, n.bulk); session != nil {
		a.Carrier = string(session.Link().Carrier())
		a.RTT = float64(session.RTT().Microseconds()) / 1000
		if chain := session.Link().ConnectionState().PeerCertificates; len(chain) > 0 {
			a.CertificateExpires = chain[0].NotAfter
		}
	}
	if n.expires.After(a.CertificateExpires) {
		a.CertificateExpires = n.expires
	}
	return a
}

func (s service) CreateJob(ctx context.Context, tenant, name string, allow []string) (admin.JobToken, error) {
	job, token, err := s.r.state.CreateJob(ctx, tenant, name, allow)
	if err != nil {
		return admin.JobToken{}, err
	}
	s.r.log.Info("job created", "tenant", tenant, "job", name, "allow", allow)
	return admin.JobToken{Name: job.Name, Token: token}, nil
}

func (s service) Jobs(_ context.Context, tenant string) (list []admin.Job, err error) {
	for _, j := range s.r.state.Jobs(tenant) {
		list = append(list, admin.Job{Name: j.Name, Allow: j.Allow, Created: j.Created, Revoked: j.Revoked})
	}
	return list, nil
}

// RevokeJob ends the job everywhere: its token, its streams at the relay's
// ingresses, its clients' sessions, and its streams at the nodes.
func (s service) RevokeJob(ctx context.Context, tenant, name string) error {
	if err := s.r.state.RevokeJob(ctx, tenant, name); err != nil {
		return err
	}
	s.r.endJob(jobKey{tenant, name})
	s.r.log.Info("job revoked", "tenant", tenant, "job", name)
	return nil
}

// endJob ends what a job that was revoked has here.
func (r *Relay) endJob(job jobKey) {
	r.dials.revoke(job)
	r.splices.cut(job)
	for _, n := range r.registry.snapshot() {
		if n.key.tenant != job.tenant {
			continue
		}
		if session := n.session(true); session != nil {
			_ = session.Notify(tunnel.TypeRevoked, tunnel.Revoked{Job: job.job})
		}
	}
	for _, session := range r.registry.clientsOf(job) {
		_ = session.Close("revoked")
	}
}

// endJobs does that for jobs that were revoked at another relay.
func (r *Relay) endJobs(list []state.JobEnd) {
	for _, j := range list {
		r.endJob(jobKey{j.Tenant, j.Name})
		r.log.Info("job revoked, at another relay", "tenant", j.Tenant, "job", j.Name)
	}
}

// Authorities are the CA's generations.
func (s service) Authorities(context.Context) (list []admin.Authority, err error) {
	all := s.r.state.Authorities()
	for i, a := range all {
		c := a.Certificate()
		list = append(list, admin.Authority{
			Generation: a.Generation(), Signs: i == len(all)-1, From: c.NotBefore.UTC(), Until: c.NotAfter.UTC(),
			Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})),
		})
	}
	return list, nil
}
