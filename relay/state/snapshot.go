package state

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/ebbgate/ebbgate/certs"
)

// snapshot is everything at one revision. It is never changed: a change makes a
// new one, which shares what stayed. Maps of tenants' things have keys that
// begin with the tenant; the ids of gateways and tokens are random, of 128 bits,
// and looked up only by who shows a secret with them.
type snapshot struct {
	instance    row
	authorities []authority
	tenants     map[string]row
	gateways    map[gatewayKey]*gateway
	gatewayIDs  map[string]*gateway
	nodes       map[gatewayKey]map[string]*node
	jobs        map[jobKey]*job
	tokens      map[string]*token
}

type (
	gatewayKey struct{ tenant, name string }
	jobKey     struct{ tenant, name string }
)

// authority is a generation of the CA.
type authority struct {
	*certs.Authority
	row row
}

type gateway struct {
	Gateway
	key1, key2 certs.Secret
	row        row
}

// Format keeps keys out of what is printed.
func (gateway) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

type node struct {
	Node
	row row
}

type job struct {
	Job
	row row
}

type token struct {
	key     jobKey
	hash    [32]byte
	revoked bool
	row     row
}

func newSnapshot() *snapshot {
	return &snapshot{
		tenants:    make(map[string]row),
		gateways:   make(map[gatewayKey]*gateway),
		gatewayIDs: make(map[string]*gateway),
		nodes:      make(map[gatewayKey]map[string]*node),
		jobs:       make(map[jobKey]*job),
		tokens:     make(map[string]*token),
	}
}

// with is the snapshot with rows added and replaced. Errors are *damage.
func (s *snapshot) with(k *keyring, rows []row) (*snapshot, error) {
	next := *s
	touched := make(map[string]bool)
	ours := make(map[gatewayKey]bool) // whose map of nodes is this snapshot's own
	for _, r := range rows {
		if !touched[r.table] {
			touched[r.table] = true
			next.own(r.table)
		}
		f := &fields{row: r, keys: k}
		switch r.table {
		case tableInstance:
			next.instance = r
		case tableAuthorities:
			next.putAuthority(f)
		case tableTenants:
			next.tenants[f.text("name")] = r
		case tableGateways:
			next.putGateway(f)
		case tableNodes:
			next.putNode(f, ours)
		case tableJobs:
			next.putJob(f)
		case tableTokens:
			next.putToken(f)
		}
		if f.err != nil {
			return nil, f.err
		}
	}
	return &next, nil
}

// find is the row that has the same primary key as another.
func (s *snapshot) find(like row) (row, bool) {
	f := &fields{row: like}
	switch like.table {
	case tableAuthorities:
		for _, a := range s.authorities {
			if int64(a.Generation()) == f.number("generation") {
				return a.row, true
			}
		}
	case tableTenants:
		r, ok := s.tenants[f.text("name")]
		return r, ok
	case tableGateways:
		if g := s.gateways[gatewayKey{f.text("tenant"), f.text("name")}]; g != nil {
			return g.row, true
		}
	case tableNodes:
		if n := s.nodes[gatewayKey{f.text("tenant"), f.text("gateway")}][f.text("name")]; n != nil {
			return n.row, true
		}
	case tableJobs:
		if j := s.jobs[jobKey{f.text("tenant"), f.text("name")}]; j != nil {
			return j.row, true
		}
	case tableTokens:
		if t := s.tokens[f.text("id")]; t != nil {
			return t.row, true
		}
	}
	return row{}, false
}

// own makes the snapshot's map of a table its own.
func (s *snapshot) own(table string) {
	switch table {
	case tableAuthorities:
		s.authorities = slices.Clone(s.authorities)
	case tableTenants:
		s.tenants = maps.Clone(s.tenants)
	case tableGateways:
		s.gateways, s.gatewayIDs = maps.Clone(s.gateways), maps.Clone(s.gatewayIDs)
	case tableNodes:
		s.nodes = maps.Clone(s.nodes)
	case tableJobs:
		s.jobs = maps.Clone(s.jobs)
	case tableTokens:
		s.tokens = maps.Clone(s.tokens)
	}
}

func authorityPlace(generation int64) string { return fmt.Sprintf("authorities/%d/secret", generation) }

func gatewayPlace(id, slot string) string { return "gateways/" + id + "/" + slot }

func (s *snapshot) putAuthority(f *fields) {
	generation := f.number("generation")
	certificate, key := f.bytes("certificate"), f.decrypt("secret", authorityPlace(generation))
	if f.err != nil {
		return
	}
	parsed, err := certs.ParseAuthority(certificate, key)
	if err == nil && int64(parsed.Generation()) != generation {
		err = fmt.Errorf("the certificate is of generation %d", parsed.Generation())
	}
	if err != nil {
		f.fail("certificate", err)
		return
	}
	s.authorities = slices.DeleteFunc(s.authorities, func(a authority) bool { return a.Generation() == parsed.Generation() })
	s.authorities = append(s.authorities, authority{parsed, f.row})
	slices.SortFunc(s.authorities, func(a, b authority) int { return a.Generation() - b.Generation() })
}

func (s *snapshot) putGateway(f *fields) {
	g := &gateway{
		Gateway: Gateway{Tenant: f.text("tenant"), Name: f.text("name"), ID: f.text("id"), Created: f.time("created")},
		row:     f.row,
	}
	g.key1 = f.secret(Key1, gatewayPlace(g.ID, Key1))
	g.key2 = f.secret(Key2, gatewayPlace(g.ID, Key2))
	s.gateways[gatewayKey{g.Tenant, g.Name}] = g
	s.gatewayIDs[g.ID] = g
}

func (s *snapshot) putNode(f *fields, ours map[gatewayKey]bool) {
	n := &node{
		Node: Node{
			Tenant: f.text("tenant"), Gateway: f.text("gateway"), Name: f.text("name"),
			PublicKey: f.bytes("public_key"), PreviousKey: f.bytes("previous_key"),
			Counter: int(f.number("counter")), Created: f.time("created"),
		},
		row: f.row,
	}
	f.json("stores", &n.Stores)
	key := gatewayKey{n.Tenant, n.Gateway}
	if !ours[key] {
		ours[key] = true
		if s.nodes[key] = maps.Clone(s.nodes[key]); s.nodes[key] == nil {
			s.nodes[key] = make(map[string]*node)
		}
	}
	s.nodes[key][n.Name] = n
}

func (s *snapshot) putJob(f *fields) {
	j := &job{
		Job: Job{
			Tenant: f.text("tenant"), Name: f.text("name"), ID: f.text("token"),
			Created: f.time("created"), Revoked: f.number("revoked") != 0,
		},
		row: f.row,
	}
	if j.Revoked {
		j.RevokedAt = f.time("revoked")
	}
	f.json("allow", &j.Allow)
	s.jobs[jobKey{j.Tenant, j.Name}] = j
}

func (s *snapshot) putToken(f *fields) {
	t := &token{key: jobKey{f.text("tenant"), f.text("job")}, revoked: f.number("revoked") != 0, row: f.row}
	raw, err := hex.DecodeString(f.text("hash"))
	if err != nil || copy(t.hash[:], raw) != len(t.hash) {
		f.fail("hash", fmt.Errorf("not a hash"))
	}
	s.tokens[f.text("id")] = t
}

// pin is of the generation that signs.
func (s *snapshot) pin() certs.Pin { return s.authorities[len(s.authorities)-1].Pin() }
