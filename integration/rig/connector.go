package rig

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// Store is a store in a connector's configuration.
type Store struct {
	Name         string   `json:"name"`
	Address      string   `json:"address"`
	Aliases      []string `json:"aliases,omitempty"`
	AllowSpecial []string `json:"allow_special,omitempty"`
	Jobs         []string `json:"jobs,omitempty"`
	Ingress      []string `json:"ingress,omitempty"`
}

// Loopback is a store on this machine.
func Loopback(name, addr string) Store {
	return Store{Name: name, Address: addr, AllowSpecial: []string{"loopback"}}
}

// Proxy is a connector's way out. The zero value means no proxy.
type Proxy struct {
	URL      string
	Username string
	Password string
	Auth     []string
}

// ConnectorOptions say what a connector is.
type ConnectorOptions struct {
	Dir      string // of its configuration and state
	Relay    string // host:port
	Override string // host:port that connector.yaml names instead of what the registration says
	Only     string // the same, and it learns of no other relay
	// Endpoint, if set, is the key relay of the configuration, in place of Relay and Override.
	Endpoint map[string]any
	Key      string
	Name     string
	Carriers []string // default: auto
	Proxy    Proxy
	Stores   []Store
	Config   map[string]any // more keys of connector.yaml
}

// Connector is a connector that is configured, registered, or running.
type Connector struct {
	*proc.Process `json:"-"`       // nil until started
	Program       Program          `json:"-"`
	Options       ConnectorOptions `json:"-"`
	Config        string           `json:"-"` // path of connector.yaml

	Enrolled string `json:"-"` // the carrier on which it was registered

	// What its ready line says.
	Identity string `json:"node"`
	Carrier  string `json:"carrier"`
	ProxyUse string `json:"proxy"`
}

// Configure writes a connector's configuration. It may be called again after the options changed.
func Configure(p Program, o ConnectorOptions) (*Connector, error) {
	c := &Connector{Program: p, Options: o, Config: filepath.Join(o.Dir, "connector.yaml")}
	return c, c.Configure()
}

// Configure writes the configuration again.
func (c *Connector) Configure() error {
	o := c.Options
	proxy := map[string]any{"mode": "none"}
	if o.Proxy.URL != "" {
		proxy = map[string]any{"mode": "custom", "url": o.Proxy.URL}
		if o.Proxy.Username != "" {
			file := filepath.Join(o.Dir, "proxy-password")
			if err := writeFile(file, o.Proxy.Password+"\n"); err != nil {
				return err
			}
			proxy["username"], proxy["password_file"] = o.Proxy.Username, file
		}
		if o.Proxy.Auth != nil {
			proxy["auth"] = o.Proxy.Auth
		}
	}
	config := map[string]any{"state_dir": filepath.Join(o.Dir, "state"), "proxy": proxy, "stores": o.Stores}
	if o.Override != "" {
		config["relay"] = o.Override
	}
	if o.Only != "" {
		config["relay"] = []string{o.Only}
	}
	if o.Carriers != nil {
		config["carriers"] = o.Carriers
	}
	if o.Endpoint != nil {
		config["relay"] = o.Endpoint
	}
	maps.Copy(config, o.Config)
	return writeYAML(c.Config, config)
}

// Register registers the connector as a node.
func (c *Connector) Register(ctx context.Context) error {
	file := filepath.Join(c.Options.Dir, "gateway.key")
	if err := writeFile(file, c.Options.Key+"\n"); err != nil {
		return err
	}
	defer func() { _ = os.Remove(file) }()
	args := []string{"connector", "register", "--key-file", file, "--name", c.Options.Name, "--config", c.Config}
	if c.Options.Endpoint == nil {
		args = append(args, "--relay", c.Options.Relay)
	}
	var registered struct{ Carrier string }
	err := c.Program.Run(ctx, &registered, args...)
	c.Enrolled = registered.Carrier
	return err
}

// Launch starts the connector and does not wait for its session.
func (c *Connector) Launch() (err error) {
	c.Process, err = c.Program.Start("connector", "run", "--config", c.Config)
	return err
}

// Start starts the connector and waits until it has a session.
func (c *Connector) Start(ctx context.Context) error {
	if err := c.Launch(); err != nil {
		return err
	}
	if err := c.Ready(ctx, c); err != nil {
		c.Kill()
		return commandError([]string{c.Name()}, err)
	}
	return nil
}

// AwaitRefused waits until the connector says, in its status or by its end, that its proxy has refused the credential.
func (c *Connector) AwaitRefused(ctx context.Context) error {
	const code, hop = "proxy-credential-refused", "proxy-auth"
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.Done():
			err := Failure(ctx, c.Process)
			var failed *CommandError
			if errors.As(err, &failed) && failed.Code == code && failed.Hop == hop {
				return nil
			}
			return err
		case <-ctx.Done():
			return c.Failure("does not say that the proxy refuses it")
		case <-tick.C:
			var status struct {
				ProxyRefused bool                       `json:"proxy_refused"`
				LastError    struct{ Code, Hop string } `json:"last_error"`
			}
			err := c.Program.Run(ctx, &status, "connector", "status", "--config", c.Config)
			if err == nil && status.ProxyRefused && status.LastError.Code == code && status.LastError.Hop == hop {
				return nil
			}
		}
	}
}

// StartConnector configures, registers and starts a connector.
func StartConnector(ctx context.Context, p Program, o ConnectorOptions) (*Connector, error) {
	c, err := Configure(p, o)
	if err != nil {
		return nil, err
	}
	if err := c.Register(ctx); err != nil {
		return nil, err
	}
	return c, c.Start(ctx)
}

// ForwardOptions say what a job-side forward does.
type ForwardOptions struct {
	Dir      string
	Relay    string // host:port
	HTTPPort string // default 80
	Token    string
	Target   string   // gateway/store
	Listen   string   // default 127.0.0.1:0
	Carriers []string // default: auto
}

// Forward is a running forward.
type Forward struct {
	*proc.Process `json:"-"`
	Program       Program        `json:"-"`
	Options       ForwardOptions `json:"-"`

	Addr string `json:"listen"` // where it listens
}

// StartForward starts a forward and waits until it listens.
func StartForward(ctx context.Context, p Program, o ForwardOptions) (*Forward, error) {
	f := &Forward{Program: p, Options: o}
	file := filepath.Join(o.Dir, "token")
	if err := writeFile(file, o.Token+"\n"); err != nil {
		return nil, err
	}
	p.Env = append(append([]string{}, p.Env...), "EBBGATE_RELAY="+o.Relay, "EBBGATE_JOB_TOKEN_FILE="+file)
	if o.HTTPPort != "" {
		p.Env = append(p.Env, "EBBGATE_RELAY_HTTP_PORT="+o.HTTPPort)
	}
	args := []string{"forward", o.Target, "--listen", or(o.Listen, "127.0.0.1:0")}
	for _, c := range o.Carriers {
		args = append(args, "--carriers", c)
	}
	var err error
	if f.Process, err = p.Start(args...); err != nil {
		return nil, err
	}
	if err := f.Ready(ctx, f); err != nil {
		f.Kill()
		return nil, commandError(args, err)
	}
	if f.Addr == "" {
		f.Kill()
		return nil, f.Failure("has a ready line without an address")
	}
	return f, nil
}

// Again starts a forward like one that has ended.
func (f *Forward) Again(ctx context.Context) (*Forward, error) {
	return StartForward(ctx, f.Program, f.Options)
}
