package connector

import (
	"context"
	"time"
)

// Report is how a running connector is.
type Report struct {
	Node               string          `json:"node"`
	Incarnation        string          `json:"incarnation"`
	Software           string          `json:"software"`
	Since              time.Time       `json:"since"`
	Online             bool            `json:"online"`
	Relay              string          `json:"relay"`
	Sessions           []SessionReport `json:"sessions"`
	Carrier            string          `json:"carrier"`
	Proxy              string          `json:"proxy"`
	ProxyAuth          string          `json:"proxy_auth"`
	ProxyRefused       bool            `json:"proxy_refused"`
	RTTMillis          float64         `json:"rtt_ms"`
	CertificateExpires time.Time       `json:"certificate_expires"`
	Stores             []StoreReport   `json:"stores"`
	Runs               int             `json:"runs"`
	Streams            int             `json:"streams"`
	LastError          *Failure        `json:"last_error,omitempty"`
}

// SessionReport is one session that is up.
type SessionReport struct {
	Role      string    `json:"role"` // control or bulk
	Carrier   string    `json:"carrier"`
	Relay     string    `json:"relay"` // the relay's identity
	Remote    string    `json:"remote"`
	Since     time.Time `json:"since"`
	RTTMillis float64   `json:"rtt_ms"`
}

// StoreReport is one store that the node may dial.
type StoreReport struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// Failure is what went wrong last.
type Failure struct {
	Time    time.Time `json:"time"`
	Code    string    `json:"code"`
	Hop     string    `json:"hop"`
	Message string    `json:"message"`
	Advice  string    `json:"advice"`
}

// Status asks the connector that runs on stateDir.
func Status(ctx context.Context, stateDir string) (*Report, error) { panic("todo") }
