package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/ingress"
	"github.com/ebbgate/ebbgate/relay/state"
)

// doors are the ingresses that are open. apply changes them while they serve.
type doors struct {
	r       *Relay
	metrics *ingress.Metrics
	https   *ingress.Connect // has no listener of its own

	changing sync.Mutex // held while they change

	mu sync.Mutex
	// guarded by mu
	serving  *errgroup.Group // nil before and after
	ctx      context.Context // of serving
	open     []*doorway
	leaving  []*doorway // removed; their streams go on
	webProxy bool       // https answers
}

// doorway is an ingress and what it listens on.
type doorway struct {
	ingressServer
	kind     string // connect, socks5, port
	listener *ingress.Listener

	// guarded by doors.changing
	door    config.RelayDoor
	binding ingress.Binding
}

// ingressServer is one kind of ingress.
type ingressServer interface {
	Serve(ctx context.Context, l *ingress.Listener) error
	Drain(ctx context.Context) error
}

// wanted is an ingress that a configuration asks for.
type wanted struct {
	kind, key string
	config.RelayDoor
	binding ingress.Binding // of a port
	rules   ingress.Rules
}

func newDoors(r *Relay) *doors {
	d := &doors{r: r, metrics: ingress.NewMetrics(r.cfg.Registry)}
	d.https = ingress.NewConnect(r.dials, r.log, d.metrics)
	return d
}

// wantedOf lists what a configuration asks for.
func (d *doors) wantedOf(in config.RelayIngress) (list []wanted, err error) {
	add := func(w wanted, alpn ...string) {
		if w.Listen == "" || err != nil {
			return
		}
		w.rules.AllowFrom = w.AllowFrom
		w.rules.TLS, err = d.tls(w.key, w.RelayDoor, alpn)
		list = append(list, w)
	}
	add(wanted{kind: "connect", key: "ingress.connect", RelayDoor: in.Connect}, "http/1.1")
	add(wanted{kind: "socks5", key: "ingress.socks5", RelayDoor: in.Socks5})
	for i, p := range in.Ports {
		add(wanted{
			kind: "port", key: fmt.Sprintf("ingress.ports[%d]", i), RelayDoor: p.RelayDoor,
			binding: ingress.Binding{
				Target: ingress.Target{Host: p.Store + "." + p.Gateway},
				Job:    ingress.Job{Tenant: state.DefaultTenant, Name: p.Job},
			},
		})
	}
	return list, err
}

// tls is the TLS of an ingress; nil: it has none.
func (d *doors) tls(key string, door config.RelayDoor, alpn []string) (*tls.Config, error) {
	if !door.TLS {
		return nil, nil
	}
	c := d.r.self.publicConfig()
	c.NextProtos = alpn
	if door.ClientCA == "" {
		return c, nil
	}
	const advice = "client_ca names a PEM file with the certificates of the authorities that jobs' certificates come from"
	text, err := os.ReadFile(door.ClientCA)
	if err != nil {
		return nil, failure("certificate-invalid", "config", advice, "%s.client_ca: %v", key, err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(text) {
		return nil, failure("certificate-invalid", "config", advice, "%s.client_ca: %s holds no certificate", key, door.ClientCA)
	}
	c.ClientAuth, c.SessionTicketsDisabled = tls.RequireAndVerifyClientCert, true
	return c, nil
}

// apply makes the open ingresses those of a configuration: all, or after an error
// none of the changes. Streams of an ingress that goes are carried on. It says
// what changed; a file with certificates is not looked into for that.
func (d *doors) apply(ctx context.Context, in config.RelayIngress) (changed []string, err error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	list, err := d.wantedOf(in)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	rest := slices.Clone(d.open)
	d.mu.Unlock()
	var open, made []*doorway
	for _, w := range list {
		if i := slices.IndexFunc(rest, func(o *doorway) bool { return o.kind == w.kind && o.door.Listen == w.Listen }); i >= 0 {
			open, rest = append(open, rest[i]), slices.Delete(rest, i, i+1)
			continue
		}
		o, err := d.make(ctx, w)
		if err != nil {
			for _, o := range made {
				_ = o.listener.Close()
			}
			return nil, err
		}
		open, made = append(open, o), append(made, o)
		changed = append(changed, w.key+" opened")
	}
	for i, w := range list { // from here on, nothing fails
		o := open[i]
		if !slices.Contains(made, o) && (!reflect.DeepEqual(o.door, w.RelayDoor) || o.binding != w.binding) {
			changed = append(changed, w.key)
		}
		o.door, o.binding = w.RelayDoor, w.binding
		open[i].listener.SetRules(w.rules)
		if p, ok := open[i].ingressServer.(*ingress.Port); ok {
			p.Bind(w.binding)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.webProxy != in.HTTPS {
		changed = append(changed, "ingress.https")
	}
	d.open, d.webProxy = open, in.HTTPS
	for _, o := range made {
		d.startLocked(o)
	}
	for _, o := range rest {
		d.retireLocked(o)
		changed = append(changed, o.kind+" "+string(o.door.Listen)+" closed")
	}
	return changed, nil
}

func (d *doors) make(ctx context.Context, w wanted) (*doorway, error) {
	l, err := ingress.Listen(ctx, string(w.Listen))
	if err != nil {
		return nil, listenError(w.key, err)
	}
	o := &doorway{kind: w.kind, listener: l, door: w.RelayDoor, binding: w.binding}
	switch w.kind {
	case "connect":
		o.ingressServer = ingress.NewConnect(d.r.dials, d.r.log, d.metrics)
	case "socks5":
		o.ingressServer = ingress.NewSocks5(d.r.dials, d.r.log, d.metrics)
	default:
		o.ingressServer = ingress.NewPort(d.r.dials, w.binding, d.r.log, d.metrics)
	}
	return o, nil
}

// serve serves the ingresses until ctx ends; those that come later, too.
func (d *doors) serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	d.mu.Lock()
	d.serving, d.ctx = group, ctx
	for _, o := range d.open {
		d.startLocked(o)
	}
	d.mu.Unlock()
	<-ctx.Done()
	d.mu.Lock()
	d.serving = nil
	d.mu.Unlock()
	return group.Wait()
}

func (d *doors) startLocked(o *doorway) {
	if d.serving == nil {
		return
	}
	ctx := d.ctx
	d.serving.Go(func() error { return o.Serve(ctx, o.listener) })
}

// retireLocked lets nobody in any more and lets what is inside end.
func (d *doors) retireLocked(o *doorway) {
	_ = o.listener.Close()
	if d.serving == nil {
		return
	}
	d.leaving = append(d.leaving, o)
	ctx := d.ctx
	d.serving.Go(func() error {
		_ = o.Drain(ctx)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.leaving = slices.DeleteFunc(d.leaving, func(other *doorway) bool { return other == o })
		return nil
	})
}

// drain lets nobody in any more, and waits until nobody is inside or ctx ends.
func (d *doors) drain(ctx context.Context) {
	d.mu.Lock()
	all := slices.Concat(d.open, d.leaving)
	d.mu.Unlock()
	var wg sync.WaitGroup
	for _, o := range all {
		wg.Go(func() { _ = o.Drain(ctx) })
	}
	wg.Go(func() { _ = d.https.Drain(ctx) })
	wg.Wait()
}

// close closes listeners that nobody serves.
func (d *doors) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.open {
		_ = o.listener.Close()
	}
}

// web is the ingress on the TLS port; nil: there is none now.
func (d *doors) web() *ingress.Connect {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.webProxy {
		return nil
	}
	return d.https
}

// ready tells the addresses.
func (d *doors) ready(at *Ready) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.open {
		address := o.listener.Addr().String()
		switch o.kind {
		case "connect":
			at.Connect = address
		case "socks5":
			at.Socks5 = address
		default:
			at.Ports = append(at.Ports, address)
		}
	}
}
