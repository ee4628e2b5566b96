package connector

import (
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

// Report is how a running connector is.
type Report struct {
	Node        string    `json:"node"` // its identity
	Incarnation string    `json:"incarnation"`
	Software    string    `json:"software"`
	Since       time.Time `json:"since"`
	// Online is true while a control session is up.
	Online bool `json:"online"`
	// Relay, Carrier, Proxy and RTTMillis are those of the first relay that there
	// is a session with.
	Relay        string  `json:"relay"`   // host:port
	Carrier      string  `json:"carrier"` // of the control session
	Proxy        string  `json:"proxy"`   // host:port; empty: none
	ProxyAuth    string  `json:"proxy_auth"`
	ProxyRefused bool    `json:"proxy_refused"`
	RTTMillis    float64 `json:"rtt_ms"`
	// Relays are those that sessions are kept to: two, where there are two.
	Relays   []RelayReport   `json:"relays"`
	Sessions []SessionReport `json:"sessions"`
	// CertificateExpires is the end of the certificate that is used.
	CertificateExpires time.Time `json:"certificate_expires"`
	// CertificateUnsaved is true while it could not be written to disk.
	CertificateUnsaved bool          `json:"certificate_unsaved,omitempty"`
	Stores             []StoreReport `json:"stores"`
	Runs               int           `json:"runs"`
	Streams            int           `json:"streams"`
	// LastError is what went wrong last, also if it is over.
	LastError *Failure     `json:"last_error,omitempty"`
	Config    ConfigReport `json:"config"`
}

// RelayReport is one relay that sessions are kept to.
type RelayReport struct {
	Relay     string  `json:"relay"`              // host:port
	Identity  string  `json:"identity,omitempty"` // while there is a session
	Online    bool    `json:"online"`             // there is a control session
	Carrier   string  `json:"carrier,omitempty"`
	RTTMillis float64 `json:"rtt_ms,omitempty"`
	// LastError is why there is none.
	LastError *Failure `json:"last_error,omitempty"`
}

// SessionReport is one session that is up.
type SessionReport struct {
	Role      string    `json:"role"` // control or bulk
	Carrier   string    `json:"carrier"`
	Relay     string    `json:"relay"` // the relay's identity
	Remote    string    `json:"remote"`
	Proxy     string    `json:"proxy"` // host:port; empty: none
	Since     time.Time `json:"since"`
	RTTMillis float64   `json:"rtt_ms"`
}

// StoreReport is one store that the node may dial.
type StoreReport struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// report is the answer to a question for the status.
func (r *running) report() *Report {
	set := r.set.Load()
	_, unsaved := r.id.current()
	rep := &Report{
		Node: r.id.name.String(), Incarnation: r.incarnationText(), Software: r.cfg.Software, Since: r.since,
		Relays: []RelayReport{}, Sessions: []SessionReport{}, Stores: []StoreReport{}, ProxyRefused: set.proxy.Status().Refused,
		CertificateExpires: r.id.expires(), CertificateUnsaved: unsaved,
		Runs: r.gate.runs.active(), Streams: r.node.Streams(), Config: r.configReport(),
	}
	r.reportRelays(rep)
	for _, e := range r.sessions.all() {
		rep.Sessions = append(rep.Sessions, SessionReport{
			Role: e.role, Carrier: string(e.session.Link().Carrier()), Relay: e.relay, Remote: e.session.Link().RemoteAddr().String(),
			Proxy: e.route.proxy.Status().Proxy, Since: e.since, RTTMillis: millis(e.session.RTT()),
		})
	}
	for _, st := range set.file.Stores {
		rep.Stores = append(rep.Stores, StoreReport{st.Name, address(st)})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rep.LastError = r.last
	return rep
}

// reportRelays tells of each relay that has a place.
func (r *running) reportRelays(rep *Report) {
	for _, p := range r.relays {
		at := p.used()
		if at == nil {
			continue
		}
		one := RelayReport{Relay: hostPort(at.to)}
		p.mu.Lock()
		one.LastError = p.last
		p.mu.Unlock()
		if e := p.sessions.newest(p, tunnel.RoleControl); e != nil {
			one.Identity, one.Online, one.Carrier, one.RTTMillis = e.relay, true, string(e.session.Link().Carrier()), millis(e.session.RTT())
		}
		if rep.Relay == "" || one.Online && !rep.Online {
			proxy := at.proxy.Status()
			rep.Relay, rep.Online, rep.Carrier, rep.RTTMillis = one.Relay, one.Online, one.Carrier, one.RTTMillis
			rep.Proxy, rep.ProxyAuth = proxy.Proxy, string(proxy.Auth)
		}
		rep.Relays = append(rep.Relays, one)
	}
}
