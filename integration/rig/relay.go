package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// RelayOptions say how a relay is started. Zero values mean loopback and free ports.
type RelayOptions struct {
	Dir      string // of its configuration and state
	Hostname string // default 127.0.0.1
	Listen   string // host:port of TLS and QUIC; they share the number
	HTTP     string // host:port
	Connect  string
	Postgres string         // address of the database that it shares with other relays
	KeyOf    *Relay         // one of them, whose state.key it gets
	Config   map[string]any // more keys of relay.yaml
	Flags    []string       // of relay run
}

// Relay is a running relay.
type Relay struct {
	*proc.Process `json:"-"`
	Program       Program `json:"-"`
	Dir           string  `json:"-"`
	Config        string  `json:"-"` // path of relay.yaml

	flags []string // of relay run

	// The addresses at which it serves.
	TLS     string   `json:"tls"`
	QUIC    string   `json:"quic"`
	HTTP    string   `json:"http"`
	Connect string   `json:"connect"`
	Socks5  string   `json:"socks5"`
	Metrics string   `json:"metrics"`
	Ports   []string `json:"ports"` // of ingress.ports, in that order

	// Address is how connectors and clients name it.
	Address string `json:"-"`
}

// attempts bounds how often a relay is started on other ports, because somebody took one that was free.
const attempts = 10

// StartRelay starts a relay and waits until it serves. Where the directory holds no state yet, it makes it.
func StartRelay(ctx context.Context, p Program, o RelayOptions) (*Relay, error) {
	r := &Relay{Program: p, Dir: o.Dir, Config: filepath.Join(o.Dir, "relay.yaml"), flags: o.Flags}
	hostname := or(o.Hostname, "127.0.0.1")
	if o.KeyOf != nil {
		if err := copyKey(o.KeyOf.Dir, o.Dir); err != nil {
			return nil, err
		}
	}
	for attempt := 1; ; attempt++ {
		if err := o.configure(r.Config, hostname); err != nil {
			return nil, err
		}
		err := r.Restart(ctx)
		if err == nil {
			break
		}
		var e *CommandError
		if !errors.As(err, &e) || e.Code != "listen-failed" || attempt == attempts {
			return nil, err
		}
	}
	_, port, err := net.SplitHostPort(r.TLS)
	if err != nil {
		r.Kill()
		return nil, fmt.Errorf("rig: ready line of the relay: %w", err)
	}
	r.Address = net.JoinHostPort(hostname, port)
	return r, nil
}

// configure writes the relay's configuration.
func (o RelayOptions) configure(path, hostname string) error {
	listen, err := o.listen(o.Listen)
	if err != nil {
		return err
	}
	plain, err := o.listen(o.HTTP)
	if err != nil {
		return err
	}
	config := map[string]any{
		"hostname": hostname,
		"listen":   map[string]any{"tls": listen, "quic": listen, "http": plain},
		"ingress":  map[string]any{"connect": or(o.Connect, "127.0.0.1:0")},
		"state":    map[string]any{"dir": filepath.Join(o.Dir, "state"), "postgres": o.Postgres},
	}
	for k, v := range o.Config {
		config[k] = v
	}
	return writeYAML(path, config)
}

// copyKey gives a relay the key of another.
func copyKey(from, to string) error {
	raw, err := os.ReadFile(filepath.Join(from, "state", "state.key"))
	if err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(to, "state"), 0o700); err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	return writeFile(filepath.Join(to, "state", "state.key"), string(raw))
}

// listen finds an address that stays free while the relay is away, where none is given.
func (o RelayOptions) listen(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	host := "127.0.0.1"
	if ip := net.ParseIP(o.Hostname); ip != nil && ip.IsLoopback() {
		host = o.Hostname
	}
	return FreeAddr(host)
}

// Endpoint is the relay in a connector's configuration, with all its ports.
func (r *Relay) Endpoint() map[string]any {
	host, _, _ := net.SplitHostPort(r.Address)
	e := map[string]any{"host": host}
	for name, addr := range map[string]string{"tls": r.TLS, "quic": r.QUIC, "http": r.HTTP} {
		if _, port, err := net.SplitHostPort(addr); err == nil {
			e[name], _ = strconv.Atoi(port)
		}
	}
	return e
}

// Restart starts a relay that has ended again, on the same ports unless its configuration says 0.
func (r *Relay) Restart(ctx context.Context) (err error) {
	if r.Process, err = r.Program.Start(append([]string{"relay", "run", "--init", "--config", r.Config}, r.flags...)...); err != nil {
		return err
	}
	if err := r.Ready(ctx, r); err != nil {
		r.Kill()
		return commandError([]string{r.Name()}, err)
	}
	return nil
}

// Admin runs an administrator's command and decodes what it prints into v, unless v is nil.
func (r *Relay) Admin(ctx context.Context, v any, args ...string) error {
	return r.Program.Run(ctx, v, append(args, "--config", r.Config)...)
}

// Keys are a gateway's authentication keys.
type Keys struct{ Key1, Key2 string }

// CreateGateway makes a gateway and returns its keys.
func (r *Relay) CreateGateway(ctx context.Context, name string) (keys Keys, err error) {
	if err := r.Admin(ctx, nil, "gateway", "create", name); err != nil {
		return keys, err
	}
	return keys, r.Admin(ctx, &keys, "gateway", "keys", name)
}

// CreateJob makes a job that may dial the targets (gateway/store) and returns its token.
func (r *Relay) CreateJob(ctx context.Context, name string, targets ...string) (token string, err error) {
	args := []string{"job", "create", name}
	for _, t := range targets {
		args = append(args, "--allow", t)
	}
	var job struct{ Token string }
	err = r.Admin(ctx, &job, args...)
	return job.Token, err
}

// Node is what node list says of a node, as far as tests ask.
type Node struct {
	Name    string   `json:"name"`
	Status  string   `json:"status"`
	Reason  string   `json:"reason"`
	Carrier string   `json:"carrier"`
	Proxy   string   `json:"proxy"`
	RTT     float64  `json:"rtt_ms"`
	Streams int      `json:"streams"`
	Relays  []string `json:"relays"`
}

// Nodes lists a gateway's nodes.
func (r *Relay) Nodes(ctx context.Context, gateway string) ([]Node, error) {
	var list struct{ Nodes []Node }
	err := r.Admin(ctx, &list, "node", "list", gateway)
	return list.Nodes, err
}

// Await asks the relay until a node is as wanted, and returns it then.
func (r *Relay) Await(ctx context.Context, gateway, node string, wanted func(Node) bool) (Node, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := r.Nodes(ctx, gateway)
		if err != nil {
			return Node{}, err
		}
		for _, n := range nodes {
			if n.Name == node && wanted(n) {
				return n, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Node{}, fmt.Errorf("rig: node %s is not as wanted: %+v: %w", node, nodes, ctx.Err())
		}
	}
}

// Online is a Node's wanted state.
func Online(n Node) bool { return n.Status == "Online" }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
