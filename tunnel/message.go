package tunnel

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// protocolVersion is what hello carries.
const protocolVersion = 1

// Types of control messages.
const (
	TypeHello     = "hello"      // the first message of each end
	TypePing      = "ping"       // answered by the session itself
	TypeHeartbeat = "heartbeat"  // from a node, Heartbeat
	TypeGrant     = "grant"      // from a client, GrantRequest
	TypeLanes     = "lanes"      // from a client, LanesRequest
	TypeOpenLane  = "open-lane"  // to a node, OpenLane
	TypeRenewCert = "renew-cert" // from a node, RenewCert
	TypeRevoked   = "revoked"    // to a node, Revoked
	TypeConfig    = "config"     // from a node, NodeConfig
	TypeStoreTest = "store-test" // to a node, StoreTest
	TypeEnded     = "ended"      // from a node or a client, Ends
	TypeDrain     = "drain"      // either way, Drain
	TypeRelays    = "relays"     // from a relay, Relays
	TypeReplace   = "replace"    // from a relay, Replace
	TypeEnrol     = "enrol"      // from a newcomer, Enrol
	TypeError     = "error"      // answer or farewell, Error
)

// replies are the types of the answers.
var replies = map[string]string{
	TypePing:      "pong",
	TypeGrant:     "granted",
	TypeLanes:     "lane-tokens",
	TypeOpenLane:  "opened-lane",
	TypeRenewCert: "renewed-cert",
	TypeConfig:    "configured",
	TypeStoreTest: "store-tested",
	TypeEnded:     "ended-ack",
	TypeEnrol:     "enrolled",
}

// Roles of a session, as hello says; the certificate decides who may have which.
const (
	RoleControl = "control" // a node's
	RoleBulk    = "bulk"    // a second one, for bulk, on TCP carriers
	RoleClient  = "client"
	RoleEnrol   = "enrol" // a newcomer's, without a certificate
	RoleRelay   = "relay" // the relay's answer
)

// Hello is the first message of each end.
type Hello struct {
	Version      int       `json:"version"`
	Role         string    `json:"role"`
	Incarnation  string    `json:"incarnation,omitempty"`
	Time         time.Time `json:"time"`
	Software     string    `json:"software,omitempty"`
	Capabilities []string  `json:"capabilities,omitempty"`

	// From a node.
	Stores         []StoreInfo `json:"stores,omitempty"`
	ConcurrentRuns int         `json:"concurrent_runs,omitempty"`

	// From a relay.
	Relay            string `json:"relay,omitempty"` // its identity
	Ports            Ports  `json:"ports,omitzero"`
	HeartbeatSeconds int    `json:"heartbeat_seconds,omitempty"`
	// Relays are all of the relay's instance, where there are several.
	Relays []RelayInfo `json:"relays,omitempty"`
}

// StoreInfo announces a store of a node.
type StoreInfo struct {
	Name    string   `json:"name"`
	Port    int      `json:"port"`
	Aliases []string `json:"aliases,omitempty"`
}

// Ports are a relay's, as connectors reach them.
type Ports struct {
	TLS  int `json:"tls,omitempty"`
	QUIC int `json:"quic,omitempty"`
	HTTP int `json:"http,omitempty"`
}

// RelayInfo is one relay of an instance, and where it is.
type RelayInfo struct {
	Identity string `json:"identity"`
	Host     string `json:"host"`
	Ports    Ports  `json:"ports"`
}

// Relays tells of a list of relays that changed: all of them.
type Relays struct {
	Relays []RelayInfo `json:"relays"`
}

// Replace asks the end that dials for another session in the place of this one.
type Replace struct {
	Reason string `json:"reason"`
	// WithinMS is how many milliseconds the peers of a relay may take, so that they
	// do not come all at once.
	WithinMS int64 `json:"within_ms,omitempty"`
}

// Heartbeat is what a node reports about itself.
type Heartbeat struct {
	CPUPercent      float64 `json:"cpu_percent"`
	MemoryAvailable uint64  `json:"memory_available_bytes"`
	NetworkIn       float64 `json:"network_in_bytes_per_s"`
	NetworkOut      float64 `json:"network_out_bytes_per_s"`
	Runs            int     `json:"runs"`
	ConcurrentRuns  int     `json:"concurrent_runs"`
	Streams         int     `json:"streams"`
	Proxy           string  `json:"proxy,omitempty"`
}

// GrantRequest is a client's dial.
type GrantRequest struct {
	Gateway string `json:"gateway"`
	Store   string `json:"store"`
	// Host and Port are what the job dialled where it named the store as
	// programs do; then Gateway and Store are empty. Port 0 is the store's own.
	Host string `json:"host,omitempty"`
	Port int    `json:"port,omitempty"`
	Run  string `json:"run"`
	// Lanes is how many tokens for lanes the client wants with the grant.
	Lanes int `json:"lanes,omitempty"`
	// Node prefers the node of a bundle that the client has.
	Node string `json:"node,omitempty"`
}

// Granted answers GrantRequest.
type Granted struct {
	Grant      string    `json:"grant"`
	Node       string    `json:"node"`  // identity
	Store      string    `json:"store"` // its name at that node's gateway
	Expires    time.Time `json:"expires"`
	LaneTokens []string  `json:"lane_tokens,omitempty"` // one lane each, within 10 s
}

// LanesRequest is a client's wish for lanes to a node that it has a bundle with.
type LanesRequest struct {
	Node  string `json:"node"` // identity
	Lanes int    `json:"lanes"`
}

// LaneTokens answers LanesRequest.
type LaneTokens struct {
	Tokens []string `json:"tokens"` // one lane each, within 10 s
}

// OpenLane asks a node for a direct lane. It answers when it has made one, or why
// it could not.
type OpenLane struct {
	Token   string `json:"token"`   // for the lane's first bytes
	Ingress string `json:"ingress"` // identity of the other end
	Express bool   `json:"express"` // for small frames
}

// RenewCert asks for a certificate for a new key.
type RenewCert struct {
	Counter int    `json:"counter"` // of the certificate that is asked for
	CSR     []byte `json:"csr"`
	Proof   []byte `json:"proof"`
}

// RenewedCert answers RenewCert.
type RenewedCert struct {
	Chain   [][]byte `json:"chain"`
	Roots   [][]byte `json:"roots"`
	Counter int      `json:"counter"`
}

// Revoked tells a node that a job may not dial any more.
type Revoked struct {
	Job string `json:"job"`
}

// NodeConfig tells what a node's hello said and is different since.
type NodeConfig struct {
	Stores []StoreInfo `json:"stores"` // all of them
}

// StoreTest asks a node how a store of its is.
type StoreTest struct {
	Store string `json:"store"`
}

// StoreTested answers StoreTest: the hops from the node on, until one failed.
type StoreTested struct {
	Hops []Hop `json:"hops"`
}

// Hop is one part of a path, and how it is.
type Hop struct {
	Name   string  `json:"name"` // dns, policy, tcp or store
	OK     bool    `json:"ok"`
	Millis float64 `json:"ms"`
	Detail string  `json:"detail"`
	Advice string  `json:"advice,omitempty"`
}

// Drain tells that the sender stops: no new dials; reconnect after so long.
type Drain struct {
	ReconnectAfterMS int `json:"reconnect_after_ms,omitempty"`
}

// Kinds of enrolment.
const (
	EnrolNode   = "node"        // with a gateway's authentication key
	EnrolReturn = "node-return" // a registered node whose certificate expired
	EnrolJob    = "job"         // with a job's token
)

// Enrol is a newcomer's request for a certificate. It travels only inside TLS
// with a relay that was verified by its pin. Its secret does not print.
type Enrol struct {
	Kind      string
	GatewayID string // of EnrolNode
	JobID     string // of EnrolJob
	Secret    certs.Secret
	Identity  string // of EnrolReturn
	Name      string // of EnrolNode
	CSR       []byte
	Proof     []byte // of possession, over the link's keying material
}

// enrolWire is Enrol on the wire, with its secret.
type enrolWire struct {
	Kind      string `json:"kind"`
	GatewayID string `json:"gateway_id,omitempty"`
	JobID     string `json:"job_id,omitempty"`
	Secret    []byte `json:"secret,omitempty"`
	Identity  string `json:"identity,omitempty"`
	Name      string `json:"name,omitempty"`
	CSR       []byte `json:"csr"`
	Proof     []byte `json:"proof"`
}

// MarshalJSON writes the wire form.
func (e Enrol) MarshalJSON() ([]byte, error) {
	w := enrolWire{e.Kind, e.GatewayID, e.JobID, nil, e.Identity, e.Name, e.CSR, e.Proof}
	if e.Kind != EnrolReturn {
		w.Secret = e.Secret.Reveal()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads the wire form.
func (e *Enrol) UnmarshalJSON(b []byte) error {
	var w enrolWire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*e = Enrol{Kind: w.Kind, GatewayID: w.GatewayID, JobID: w.JobID, Identity: w.Identity, Name: w.Name, CSR: w.CSR, Proof: w.Proof}
	if w.Secret == nil {
		return nil
	}
	secret, err := certs.SecretFrom(w.Secret)
	e.Secret = secret
	return err
}

// Enrolled answers Enrol.
type Enrolled struct {
	Identity string   `json:"identity"`
	Chain    [][]byte `json:"chain"`
	Roots    [][]byte `json:"roots"`
	Host     string   `json:"host"` // the relay's name, as it is configured
	Ports    Ports    `json:"ports"`
	Counter  int      `json:"counter"`
	// Relays are all of the relay's instance, where there are several.
	Relays []RelayInfo `json:"relays,omitempty"`
}

// Join is the preamble of a session lane: what the lane is for. It is a hint to
// whoever receives it, and proves nothing.
type Join struct {
	Token   string `json:"token,omitempty"` // from a client to the relay
	Ingress string `json:"ingress"`         // identity of the lane's one end
	Node    string `json:"node"`            // and of the other
	Express bool   `json:"express"`         // for small frames
}

// Error is the message `error`, and an error of everything that speaks over
// sessions.
type Error struct {
	ErrCode string `json:"code"`
	ErrHop  string `json:"hop"`
	Message string `json:"message"`
	Advise  string `json:"advice,omitempty"`
	// Final errors are not mended by trying again.
	Final bool `json:"final,omitempty"`
	// Err is the cause on this side of the wire.
	Err error `json:"-"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Code names the error for programs.
func (e *Error) Code() string { return e.ErrCode }

// Hop names where it happened.
func (e *Error) Hop() string { return e.ErrHop }

// Advice says what to do.
func (e *Error) Advice() string { return e.Advise }

// Errorf makes an Error.
func Errorf(code, hop, advice, format string, args ...any) *Error {
	return &Error{ErrCode: code, ErrHop: hop, Advise: advice, Message: fmt.Sprintf(format, args...)}
}
