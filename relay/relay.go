package relay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/activity"
	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Config is what a relay needs. It is not changed; what File says may be, by
// Reload.
type Config struct {
	// File is the checked configuration at the start.
	File *config.Relay
	// Reload reads the configuration again; nil: it never changes. Path is the
	// file that it is in, which is watched; empty: there is none. Hangup asks for
	// a reload, too.
	Reload func() (*config.Relay, error)
	Path   string
	Hangup <-chan os.Signal
	// Level is the level of Logger, which the configuration changes; nil: it is
	// fixed.
	Level *slog.LevelVar
	// Init makes the state where nothing was ever made.
	Init bool
	// Lives are how long certificates are valid that the relay issues.
	Lives Lives
	// Software names the program and its version to peers.
	Software string
	// DrainTimeout is how long streams may go on after Run's context ended;
	// 0: they are reset at once.
	DrainTimeout time.Duration
	// Ready is called once with the bound addresses, when everything serves.
	Ready func(Ready)
	// Registry takes the metrics; nil: one of the relay's own, which the
	// metrics address serves.
	Registry *prometheus.Registry
	// Logger takes changes of state; nil discards.
	Logger *slog.Logger
}

// Ready has the addresses that a relay serves on.
type Ready struct {
	TLS     string `json:"tls"`
	QUIC    string `json:"quic,omitempty"`
	HTTP    string `json:"http,omitempty"`
	Connect string `json:"connect,omitempty"`
	Socks5  string `json:"socks5,omitempty"`
	// Ports are the bound addresses of ingress.ports, in that order.
	Ports   []string `json:"ports,omitempty"`
	Metrics string   `json:"metrics,omitempty"`
	API     string   `json:"api"` // unix:// and the socket's path
}

// Relay is one relay process.
type Relay struct {
	// static after construction
	cfg         Config
	log         *slog.Logger
	metrics     *metrics
	bundles     bundle.Config
	incarnation uint64

	// static after open
	state *state.State
	name  certs.Identity
	self  *identity // certificate and grants' signer

	// each guards itself
	registry   *registry
	dials      *dialer
	tickets    *tickets
	splices    splices
	doors      *doors
	doorkeeper *doorkeeper
	enrolling  *rateLimit
	reporting  *reportLimit
	activity   *activity.Recorder
	peers      *peers // the other relays of the instance

	waiting atomic.Pointer[string]       // what it waits for before it serves; nil: it serves
	inForce atomic.Pointer[config.Relay] // the configuration that was read last and is good

	ready    Ready
	sessions sync.WaitGroup
}

// New makes a relay. It does no I/O.
func New(cfg Config) (*Relay, error) {
	if cfg.File == nil {
		return nil, errors.New("relay: no configuration")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
		cfg.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	var random [8]byte
	_, _ = rand.Read(random[:])
	r := &Relay{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registry),
		incarnation: binary.BigEndian.Uint64(random[:]),
		registry:    newRegistry(), tickets: newTickets(), doorkeeper: newDoorkeeper(), enrolling: newRateLimit(), reporting: newReportLimit(),
	}
	r.bundles = bundle.Config{
		Incarnation: r.incarnation, Pool: bundle.ProcessPool(),
		ResumeGrace: cfg.File.ResumeGrace, Logger: cfg.Logger, Metrics: bundle.NewMetrics(cfg.Registry),
	}
	r.activity = activity.New(activity.Config{
		Path: filepath.Join(cfg.File.State.Dir, activityFile), Postgres: cfg.File.State.Postgres, Keep: cfg.File.Activity.Keep, Registry: cfg.Registry, Logger: cfg.Logger,
	})
	r.dials = newDialer(r)
	r.doors = newDoors(r)
	r.peers = newPeers(r)
	r.registry.opened = r.keepDirectLanes
	r.registry.changed = r.peers.mark
	r.inForce.Store(cfg.File)
	return r, nil
}

// Run opens the state, for which it waits where PostgreSQL is out of reach,
// listens and serves until ctx ends. Then it takes no new
// dials, waits for the open streams as long as the drain timeout allows, tells
// every peer, and returns nil. An error is of starting, or of a listener that
// broke.
func (r *Relay) Run(ctx context.Context) (err error) {
	told, err := r.tell(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, told.close()) }()
	if err := r.awaitState(ctx); err != nil || r.state == nil {
		return err
	}
	defer func() { err = errors.Join(err, r.state.Close()) }()
	defer r.record(ctx)()
	l, err := r.listen(ctx)
	if err != nil {
		return err
	}
	l.ready.Metrics = told.address()
	r.ready = l.ready
	if r.cfg.File.State.Postgres.Set() {
		watchState(r.cfg.Registry, r.state)
	}
	if err := r.peers.meet(ctx); err != nil {
		l.close()
		r.doors.close()
		return err
	}
	// serving outlives ctx: what is open goes on while the relay drains.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, broken := errgroup.WithContext(serving)
	group.Go(func() error { return r.acceptTLS(broken, l.tls) })
	group.Go(func() error { return r.acceptHTTP(broken, l.http) })
	group.Go(func() error { return r.acceptQUIC(broken, l.quic) })
	group.Go(func() error { return admin.NewServer(service{r}, r.log).Serve(broken, l.api) })
	group.Go(func() error { return r.self.renew(broken, r.renewed) })
	group.Go(func() error { return r.doors.serve(broken) })
	group.Go(func() error { return r.keepConfig(broken) })
	group.Go(func() error { r.state.Follow(broken, r.endJobs); return nil })
	group.Go(func() error { r.peers.keep(broken); return nil })
	group.Go(func() error { return told.watch(broken) })
	r.log.Info("relay serves", "tls", l.ready.TLS, "quic", l.ready.QUIC, "http", l.ready.HTTP, "connect", l.ready.Connect, "instance", r.state.Instance())
	r.waiting.Store(nil)
	if r.cfg.Ready != nil {
		r.cfg.Ready(l.ready)
	}
	select {
	case <-ctx.Done():
		r.drain()
	case <-broken.Done():
	}
	stop()
	err = group.Wait()
	r.registry.closeAll()
	over, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r.doors.drain(over) // every stream is over now
	r.sessions.Wait()
	r.registry.ending.Wait()
	return err
}

// activityFile is the activity record in the state directory.
const activityFile = "activity.db"

// record begins to record what streams did. What it returns ends that: it is
// called when every stream is over.
func (r *Relay) record(ctx context.Context) func() {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var recording sync.WaitGroup
	recording.Go(func() { r.activity.Run(ctx) })
	return func() {
		stop()
		recording.Wait()
	}
}

// open opens the state and makes the relay's own identity.
func (r *Relay) open(ctx context.Context) error {
	opt := state.Options{Dir: r.cfg.File.State.Dir, KeyFile: r.cfg.File.State.KeyFile, Postgres: r.cfg.File.State.Postgres, Logger: r.log}
	if r.cfg.Init {
		if err := state.Init(ctx, opt); err != nil && !errors.Is(err, state.ErrExists) {
			return err
		}
	}
	opened, err := state.Open(ctx, opt)
	if err != nil {
		return err
	}
	r.state = opened
	r.name = certs.Identity{TrustDomain: opened.Instance(), Role: certs.RoleRelay, Name: relayName(r.cfg.File.Hostname)}
	r.self, err = newIdentity(r.name, opened, r.cfg.File, r.cfg.Lives, r.log)
	if err != nil {
		_ = opened.Close()
		return err
	}
	return nil
}

// relayName makes a name of a host name or address.
func relayName(host string) string {
	name := []byte(host)
	for i, c := range name {
		switch {
		case c >= 'A' && c <= 'Z':
			name[i] = c + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		default:
			name[i] = '-'
		}
	}
	if len(name) > 63 {
		name = name[:63]
	}
	if len(name) == 0 {
		return "relay"
	}
	return string(name)
}

// listeners are everything that the relay listens on.
type listeners struct {
	tls   net.Listener
	quic  net.PacketConn
	http  net.Listener
	api   net.Listener
	ready Ready
}

func (r *Relay) listen(ctx context.Context) (l *listeners, err error) {
	l = &listeners{}
	open := l // an error's return has none
	defer func() {
		if err != nil {
			open.close()
			r.doors.close()
		}
	}()
	file := r.cfg.File
	var config net.ListenConfig
	if err = l.listenBoth(ctx, file.Listen); err != nil {
		return nil, err
	}
	if file.Listen.HTTP != "" {
		if l.http, err = config.Listen(ctx, "tcp", string(file.Listen.HTTP)); err != nil {
			return nil, listenError("listen.http", err)
		}
		l.ready.HTTP = l.http.Addr().String()
	}
	if _, err = r.doors.apply(ctx, file.Ingress); err != nil {
		return nil, err
	}
	r.doors.ready(&l.ready)
	if l.api, err = admin.Listen(file.State.Dir); err != nil {
		return nil, err
	}
	l.ready.API = "unix://" + l.api.Addr().String()
	return l, nil
}

// listenBoth listens on TCP and, where it is wanted, on UDP. Where both have the
// same address and the system chooses the port, they get the same one: a port
// that is free for TCP may be taken for UDP, and another one is tried then.
func (l *listeners) listenBoth(ctx context.Context, at config.RelayListen) (err error) {
	listen := net.ListenConfig{Control: bundle.BeginCongestion}
	for try := 1; ; try++ {
		if l.tls, err = listen.Listen(ctx, "tcp", string(at.TLS)); err != nil {
			return listenError("listen.tls", err)
		}
		l.ready.TLS = l.tls.Addr().String()
		if at.QUIC == "" {
			return nil
		}
		address := string(at.QUIC)
		if at.QUIC == at.TLS {
			address = l.ready.TLS
		}
		if l.quic, err = listen.ListenPacket(ctx, "udp", address); err == nil {
			l.ready.QUIC = l.quic.LocalAddr().String()
			return nil
		}
		l.quic = nil
		if at.QUIC != at.TLS || portOf(string(at.TLS)) != 0 || !errors.Is(err, syscall.EADDRINUSE) || try == 20 {
			return listenError("listen.quic", err)
		}
		_ = l.tls.Close()
	}
}

func (l *listeners) close() {
	for _, c := range []net.Listener{l.tls, l.http, l.api} {
		if c != nil {
			_ = c.Close()
		}
	}
	if l.quic != nil {
		_ = l.quic.Close()
	}
}

// drain lets open streams end: no new dials, peers are told.
func (r *Relay) drain() {
	r.log.Info("relay drains", "timeout", r.cfg.DrainTimeout)
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.DrainTimeout)
	defer cancel()
	r.dials.drain()
	close(r.peers.leaving)
	r.registry.announceDrain()
	r.doors.drain(ctx)
	if n := r.registry.streams(); n > 0 {
		r.log.Warn("streams were still open when the drain timeout ended; they are reset", "streams", n)
	}
	r.tickets.wait(ctx)
	r.splices.wait(ctx)
}
