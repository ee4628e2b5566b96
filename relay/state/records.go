package state

import (
	"time"
)

// DefaultTenant exists from the start.
const DefaultTenant = "default"

// Gateway is a logical gateway.
type Gateway struct {
	Tenant  string
	Name    string
	ID      string // 32 hexadecimal digits; what its authentication keys carry
	Created time.Time
}

// The slots of a gateway's two authentication keys.
const (
	Key1 = "key1"
	Key2 = "key2"
)

// Node is a registered connector machine.
type Node struct {
	Tenant, Gateway, Name string

	PublicKey   []byte // PKIX; of the certificate that was asked for last
	PreviousKey []byte // PKIX; of the one before, for a node that never got the last; nil at first
	Counter     int    // how often its certificate was renewed
	Stores      []StoreRow
	Created     time.Time
}

// StoreRow is a store that a node announced, remembered while it is offline.
type StoreRow struct {
	Name    string   `json:"name"`
	Port    int      `json:"port"`
	Aliases []string `json:"aliases,omitempty"`
}

// Job is a cloud-side principal.
type Job struct {
	Tenant, Name string

	ID      string   // of its token: 32 hexadecimal digits
	Allow   []string // gateway/store, or gateway/* for all its stores; sorted
	Created time.Time
	Revoked bool
}

// Allows tells whether the job may dial a store.
func (j Job) Allows(gateway, store string) bool {
	panic("todo")
}
