package demo

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Names that the demo gives to things.
const (
	demoGateway = "corp"
	demoNode    = "demo"
	demoStore   = "objects"
	demoJob     = "copy"

	demoDomain    = "CORP"
	demoDNSDomain = "corp.example"
	demoUser      = "svc-ebbgate"

	proxyAuthNTLM = "ntlm"
	onlineTime    = 30 * time.Second // from a started connector to an online node
	pollInterval  = 50 * time.Millisecond
)

// path is everything between the job and the store, and what came out of it.
// Its methods are called from one goroutine.
type path struct {
	screen  *screen
	program program
	dir     string
	result  Result

	ctx     context.Context // ends with the demo, or when a part of the path fails
	cancel  context.CancelCauseFunc
	serving sync.WaitGroup // what runs in this process, and watchers of children

	relay     *child
	connector *child
	admin     []string // arguments that lead commands to the relay's API
	relayTLS  string
	ingress   string
	proxy     *Proxy
	proxyAddr string
	store     *Store
	storePort int
	roots     *x509.CertPool
	password  string
	token     string
	node      nodeStatus
	passed    ProxyStats    // during the copies
	connect   time.Duration // TCP connect to the ingress
	roundTrip time.Duration // job to store and back
}

// relayReady is what a relay prints when it serves.
type relayReady struct {
	TLS     string `json:"tls"`
	Connect string `json:"connect"`
}

// nodeStatus is what `node list` says of the node.
type nodeStatus struct {
	Name    string  `json:"name"`
	Status  string  `json:"status"`
	Carrier string  `json:"carrier"`
	Proxy   string  `json:"proxy"`
	RTT     float64 `json:"rtt_ms"`
}

// startRelay starts a relay that has never been anything and asks it for a
// gateway.
func (p *path) startRelay(Options) error {
	config := filepath.Join(p.dir, "relay.yaml")
	if err := writeConfig(config, map[string]any{
		"hostname": "127.0.0.1",
		"listen":   map[string]string{"tls": "127.0.0.1:0", "quic": "127.0.0.1:0", "http": "127.0.0.1:0"},
		"ingress":  map[string]string{"connect": "127.0.0.1:0"},
		"state":    map[string]string{"dir": filepath.Join(p.dir, "relay")},
	}); err != nil {
		return err
	}
	var err error
	if p.relay, err = p.start("relay", "relay", "run", "--init", "--config", config); err != nil {
		return err
	}
	var ready relayReady
	if err := p.await(p.relay, &ready); err != nil {
		return err
	}
	p.relayTLS, p.ingress, p.admin = ready.TLS, ready.Connect, []string{"--config", config, "--json"}
	p.screen.line("relay      serves %s, CONNECT ingress %s (pid %d)", p.relayTLS, p.ingress, p.relay.cmd.Process.Pid)
	return p.ask(nil, "gateway", "create", demoGateway)
}

// startNetwork starts what a company has without Ebbgate: a store, and a proxy
// that is the only way out.
func (p *path) startNetwork(Options) error {
	ln, err := listenLoopback()
	if err != nil {
		return err
	}
	p.storePort = ln.Addr().(*net.TCPAddr).Port
	config, roots, err := storeCertificate(demoStore + "." + demoGateway)
	if err != nil {
		ln.Close()
		return fmt.Errorf("demo: certificate: %w", err)
	}
	p.roots = roots
	objects := filepath.Join(p.dir, "objects")
	if err := os.Mkdir(objects, 0o700); err != nil {
		ln.Close()
		return fmt.Errorf("demo: %w", err)
	}
	p.store = NewStore(objects)
	p.serve("object store", func(ctx context.Context) error {
		return p.store.Serve(ctx, ln, func(l net.Listener) net.Listener { return tls.NewListener(l, config) })
	})
	p.screen.line("store      HTTPS on 127.0.0.1:%d", p.storePort)

	pln, err := listenLoopback()
	if err != nil {
		return err
	}
	p.proxyAddr, p.password = pln.Addr().String(), rand.Text()
	p.proxy = NewProxy(ProxyConfig{
		Allow: p.relayTLS, Domain: demoDomain, DNSDomain: demoDNSDomain, User: demoUser, Password: p.password,
	})
	p.serve("proxy", func(ctx context.Context) error { return p.proxy.Serve(ctx, pln) })
	p.screen.line("proxy      %s, demands NTLM, lets out CONNECT %s only", p.proxyAddr, p.relayTLS)
	return nil
}

// startConnector registers a node with the gateway's key and runs it.
func (p *path) startConnector(Options) error {
	var keys struct{ Key1 string }
	if err := p.ask(&keys, "gateway", "keys", demoGateway); err != nil {
		return err
	}
	keyFile, passwordFile := filepath.Join(p.dir, "gateway.key"), filepath.Join(p.dir, "proxy-password")
	for file, secret := range map[string]string{keyFile: keys.Key1, passwordFile: p.password} {
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	config := filepath.Join(p.dir, "connector.yaml")
	if err := writeConfig(config, map[string]any{
		"state_dir": filepath.Join(p.dir, "connector"),
		"carriers":  "auto",
		"proxy": map[string]any{
			"mode": "custom", "url": "http://" + p.proxyAddr,
			"username": demoDomain + `\` + demoUser, "password_file": passwordFile,
		},
		"stores": []any{map[string]any{
			"name": demoStore, "address": fmt.Sprintf("127.0.0.1:%d", p.storePort), "allow_special": []string{"loopback"},
		}},
	}); err != nil {
		return err
	}
	if _, err := p.program.run(p.ctx, "connector", "register", "--relay", p.relayTLS,
		"--key-file", keyFile, "--name", demoNode, "--config", config, "--json"); err != nil {
		return err
	}
	var err error
	if p.connector, err = p.start("connector", "connector", "run", "--config", config); err != nil {
		return err
	}
	if err := p.await(p.connector, nil); err != nil {
		return err
	}
	if err := p.awaitNode(); err != nil {
		return err
	}
	p.screen.line("connector  registered through the proxy, online by carrier %s (pid %d)", p.node.Carrier, p.connector.cmd.Process.Pid)
	var job struct{ Token string }
	if err := p.ask(&job, "job", "create", demoJob, "--allow", demoGateway+"/"+demoStore); err != nil {
		return err
	}
	p.token = job.Token
	return nil
}

// awaitNode asks the relay until the node is online.
func (p *path) awaitNode() error {
	ctx, cancel := context.WithTimeout(p.ctx, onlineTime)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if err := p.refreshNode(); err != nil {
			return err
		}
		if p.node.Status == "Online" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return newProgramError("connector", fmt.Errorf("the node is not online but %q: %w", p.node.Status, ctx.Err()), p.connector.stderr.String())
		}
	}
}

func (p *path) refreshNode() error {
	var list struct{ Nodes []nodeStatus }
	if err := p.ask(&list, "node", "list", demoGateway); err != nil {
		return err
	}
	for _, n := range list.Nodes {
		if n.Name == demoNode {
			p.node = n
		}
	}
	return nil
}

// start starts a child, and ends the demo should the child end before it.
func (p *path) start(name string, args ...string) (*child, error) {
	c, err := p.program.start(name, args...)
	if err != nil {
		return nil, err
	}
	p.serving.Go(func() {
		select {
		case <-c.done:
			p.cancel(c.failure())
		case <-p.ctx.Done():
		}
	})
	return c, nil
}

// await waits for a child's ready line; v, where not nil, takes what it says.
func (p *path) await(c *child, v any) error {
	body, err := c.waitReady(p.ctx)
	if err != nil || v == nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return newProgramError(c.name, fmt.Errorf("ready line: %w", err), "")
	}
	return nil
}

// ask runs an admin command; v, where not nil, takes its answer.
func (p *path) ask(v any, args ...string) error {
	out, err := p.program.run(p.ctx, append(args, p.admin...)...)
	if err != nil || v == nil {
		return err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return newProgramError(args[0]+" "+args[1], fmt.Errorf("answer: %w", err), "")
	}
	return nil
}

// serve runs a part of the path in this process.
func (p *path) serve(name string, f func(context.Context) error) {
	p.serving.Go(func() {
		if err := f(p.ctx); err != nil {
			p.cancel(fmt.Errorf("demo: %s: %w", name, err))
		}
	})
}

// close ends everything, the connector first so that it can say goodbye.
func (p *path) close() error {
	for _, c := range []*child{p.connector, p.relay} {
		if c != nil {
			c.stop()
		}
	}
	p.cancel(nil)
	p.serving.Wait()
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("demo: clean up: %w", err)
	}
	return nil
}

func listenLoopback() (*net.TCPListener, error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	return ln, nil
}

// writeConfig writes YAML; JSON is some.
func writeConfig(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}
