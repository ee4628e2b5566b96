// Package admin is the relay's API for administrators: JSON over HTTP.
//
// [Server] serves it on the Unix socket admin.sock in the relay's state
// directory, for which [Listen] makes the listener; whoever may open the socket
// (mode 0600) administers the relay. [Client] is the other side, for commands.
// The relay implements [Service]; this package knows nothing else of it.
//
// Errors have the form {"error":{"code","hop","message","advice"}}; the client
// gives them back as *[Error].
package admin

import (
	"context"
	"fmt"
	"time"
)

// Service is what the API does. Errors that people should see have the methods
// Code, Hop and Advice.
type Service interface {
	CreateGateway(ctx context.Context, tenant, name string) (Gateway, error)
	Gateways(ctx context.Context, tenant string) ([]Gateway, error)
	GatewayKeys(ctx context.Context, tenant, name string) (Keys, error)
	RegenerateKey(ctx context.Context, tenant, name, slot string) (Keys, error)
	Nodes(ctx context.Context, tenant, gateway string) ([]Node, error)
	CreateJob(ctx context.Context, tenant, name string, allow []string) (JobToken, error)
	Jobs(ctx context.Context, tenant string) ([]Job, error)
	RevokeJob(ctx context.Context, tenant, name string) error
	// TestStore has the gateway's nodes that are online and have the store, or
	// only the node that is named, dial it.
	TestStore(ctx context.Context, tenant, gateway, store, node string) (StoreTest, error)
	// Activity is a page of what runs did.
	Activity(ctx context.Context, tenant string, q ActivityQuery) (Activity, error)
	// Authorities are the generations of the relay's CA, oldest first.
	Authorities(ctx context.Context) ([]Authority, error)
}

// Authority is a generation of the relay's CA, which holds for all tenants.
type Authority struct {
	Generation  int       `json:"generation"`
	Signs       bool      `json:"signs"` // new certificates
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
	Certificate string    `json:"certificate"` // PEM
}

// Gateway is a logical gateway.
type Gateway struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Nodes   int       `json:"nodes"`  // registered
	Online  int       `json:"online"` // of those, with a session now
}

// Keys are a gateway's two authentication keys; a regenerated key comes alone.
type Keys struct {
	Key1 string `json:"key1,omitempty"`
	Key2 string `json:"key2,omitempty"`
}

// Node is a registered connector machine and what it last reported.
type Node struct {
	Name               string    `json:"name"`
	Gateway            string    `json:"gateway"`
	Status             string    `json:"status"` // Online, Offline, Draining
	Reason             string    `json:"reason"`
	Since              time.Time `json:"since"` // of the status
	Version            string    `json:"version"`
	Carrier            string    `json:"carrier"`
	Proxy              string    `json:"proxy"`
	RTT                float64   `json:"rtt_ms"`
	CPU                float64   `json:"cpu_percent"`
	MemoryAvailable    uint64    `json:"memory_available_bytes"`
	NetworkIn          float64   `json:"network_in_bytes_per_s"`
	NetworkOut         float64   `json:"network_out_bytes_per_s"`
	Runs               int       `json:"runs"`
	ConcurrentRuns     int       `json:"concurrent_runs"`
	Streams            int       `json:"streams"`
	CertificateExpires time.Time `json:"certificate_expires"`
	Stores             []string  `json:"stores"`
	// Relays are the hosts of those at which the node has a session, where there
	// are several relays.
	Relays []string `json:"relays,omitempty"`
}

// Job is a cloud-side principal.
type Job struct {
	Name    string    `json:"name"`
	Allow   []string  `json:"allow"`
	Created time.Time `json:"created"`
	Revoked bool      `json:"revoked"`
}

// JobToken is shown once, when the job is created.
type JobToken struct {
	Name  string `json:"name"`
	Token string `json:"token"`
}

// StoreTest is how a store is, as the nodes that have it see it.
type StoreTest struct {
	Gateway string `json:"gateway"`
	Store   string `json:"store"`
	OK      bool   `json:"ok"` // at every node
	// FirstFailure is the first hop that failed, at the first node where one did;
	// empty: none.
	FirstFailure string     `json:"first_failure"`
	Nodes        []NodeTest `json:"nodes"`
}

// NodeTest is how a store is for one node.
type NodeTest struct {
	Node         string `json:"node"`
	OK           bool   `json:"ok"`
	FirstFailure string `json:"first_failure"`
	Hops         []Hop  `json:"hops"` // until one failed
}

// Hop is one part of the path: relay, node, dns, policy, tcp or store.
type Hop struct {
	Name   string  `json:"name"`
	OK     bool    `json:"ok"`
	Millis float64 `json:"ms"`
	Detail string  `json:"detail"`
	Advice string  `json:"advice"`
}

// Error is what the API answers when it does not do what was asked.
type Error struct {
	ErrCode string `json:"code"`
	ErrHop  string `json:"hop"`
	Message string `json:"message"`
	Advise  string `json:"advice"`
}

func (e *Error) Error() string { return e.Message }

// Code names the error for programs.
func (e *Error) Code() string { return e.ErrCode }

// Hop names where it happened.
func (e *Error) Hop() string { return e.ErrHop }

// Advice says what to do.
func (e *Error) Advice() string { return e.Advise }

func refused(code, advice, format string, args ...any) *Error {
	return &Error{ErrCode: code, ErrHop: "relay", Message: fmt.Sprintf(format, args...), Advise: advice}
}
