package client

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/proxycfg"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// DefaultConnectTimeout is how long Run tries before it was ever connected.
	DefaultConnectTimeout = 30 * time.Second
	// DefaultResumeGrace is how long streams outlive their last lane.
	DefaultResumeGrace = 120 * time.Second
	defaultPort        = 443
	defaultHTTPPort    = 80
	maxTokenFile       = 4 << 10 // bytes
	maxRun             = 128     // characters
)

// Config is what a [Client] needs to know. It is read once.
type Config struct {
	// Relay is host[:tls-port]; the port is 443 unless given. Several, on one state,
	// are separated by commas; then there are no others. One tells of the others.
	// Empty: as EBBGATE_RELAY says.
	Relay string
	// HTTPPort is the relay's port for WebSockets without TLS of their own; 0: as
	// EBBGATE_RELAY_HTTP_PORT says, else as the relay says, 80 until it does.
	HTTPPort int
	// TokenFile holds the job's token, "-" is standard input. Empty: as
	// EBBGATE_JOB_TOKEN_FILE says.
	TokenFile string
	// Token is the job's token; then TokenFile is not read.
	Token string
	// Run names the run; empty: one of its own.
	Run string
	// Carriers are what sessions may travel on, in this order; empty: all, raced.
	Carriers []string
	// ConnectTimeout bounds Run until it was connected once; 0:
	// DefaultConnectTimeout. After that it goes on trying.
	ConnectTimeout time.Duration
	// ResumeGrace is how long streams wait for the relay or a lost lane to come
	// back; negative: not at all. 0: as EBBGATE_RESUME_GRACE says, else
	// DefaultResumeGrace.
	ResumeGrace time.Duration
	// Environment looks up the variables above and those that name a proxy; nil:
	// os.Getenv.
	Environment func(string) string
	// Stdin is where the token file "-" is read; nil: os.Stdin.
	Stdin io.Reader
	// Software names this program and its version to the relay: ebbgate/0.1.0.
	Software string
	// Ready is called once, when the first session is up; nil: nobody asks. It
	// must not block.
	Ready func(Ready)
	// Metrics counts what streams do; nil: nobody asks.
	Metrics *bundle.Metrics
	// Logger takes what happens; nil discards.
	Logger *slog.Logger
}

// Ready says how a client is connected.
type Ready struct {
	Job     string `json:"job"`     // the identity
	Relay   string `json:"relay"`   // host:port
	Carrier string `json:"carrier"` // of the first session
	Proxy   string `json:"proxy,omitempty"`
	Run     string `json:"run"`
}

// Client is one job's process at the relay.
type Client struct {
	// static after construction
	cfg         Config
	log         *slog.Logger
	token       certs.Token
	carriers    []tunnel.Carrier
	proxy       *proxycfg.Proxy
	incarnation uint64
	memory      carrierMemory // of enrolments
	holder      certs.Holder
	roster      *tunnel.Roster
	relays      [tunnel.Places]*relay
	sessions    *sessions
	pool        *pool
	ends        tunnel.Reporter
	ready       sync.Once

	learning sync.Mutex // held from what a relay told until the roster has it

	mu sync.Mutex
	// guarded by mu
	seeds    []tunnel.Endpoint // ports as the relays announced them, once they did
	identity certs.Identity    // zero before the first enrolment
	trust    *certs.Trust      // nil before the first enrolment
}

// New checks the configuration and reads the token file; it touches no network.
// Errors have Code, Hop and Advice.
func New(cfg Config) (*Client, error) {
	if cfg.Environment == nil {
		cfg.Environment = os.Getenv
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	if cfg.Run == "" {
		cfg.Run = uuid.NewString()
	} else if len(cfg.Run) > maxRun {
		return nil, configError("run-invalid", fmt.Sprintf("name runs with at most %d characters", maxRun), "a run's name of %d characters", len(cfg.Run))
	}
	c := &Client{cfg: cfg, log: cfg.Logger}
	var err error
	if c.cfg.ResumeGrace, err = resumeGrace(cfg.ResumeGrace, cfg.Environment("EBBGATE_RESUME_GRACE")); err != nil {
		return nil, err
	}
	if c.seeds, err = parseRelays(first(cfg.Relay, cfg.Environment("EBBGATE_RELAY"))); err != nil {
		return nil, err
	}
	if s := cfg.Environment("EBBGATE_RELAY_HTTP_PORT"); s != "" && cfg.HTTPPort == 0 {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 65535 {
			return nil, configError("relay-malformed", "EBBGATE_RELAY_HTTP_PORT is the relay's port for WebSockets over plain HTTP, for example 80", "%.40q is no port", s)
		}
		c.cfg.HTTPPort = n
	}
	for i := range c.seeds {
		if c.cfg.HTTPPort != 0 {
			c.seeds[i].HTTPPort = c.cfg.HTTPPort
		}
	}
	c.roster = tunnel.NewRoster(c.seeds, len(c.seeds) > 1, nil)
	if c.carriers, err = parseCarriers(cfg.Carriers); err != nil {
		return nil, err
	}
	if c.proxy, err = proxycfg.New(proxycfg.Settings{Mode: proxycfg.ModeSystem, Environment: cfg.Environment, Control: bundle.BeginCongestion}, cfg.Logger); err != nil {
		return nil, err
	}
	if cfg.Token != "" {
		c.token, err = certs.ParseToken(cfg.Token)
		c.cfg.Token = ""
	} else {
		c.token, err = readToken(first(cfg.TokenFile, cfg.Environment("EBBGATE_JOB_TOKEN_FILE")), cfg.Stdin)
	}
	if err != nil {
		return nil, err
	}
	var random [8]byte
	rand.Read(random[:])
	c.incarnation = binary.BigEndian.Uint64(random[:])
	c.sessions = newSessions()
	for via := range c.relays {
		c.relays[via] = newRelay(c, via)
	}
	c.pool = newPool(c, bundle.Config{
		Incarnation: c.incarnation, ResumeGrace: c.cfg.ResumeGrace, Metrics: cfg.Metrics, Logger: cfg.Logger,
	}, cfg.Logger)
	c.pool.ended = c.ended
	c.ends.Session, c.ends.Logger = c.reportSession, c.log
	return c, nil
}

// resumeGrace is what the program or, where it says nothing, the environment
// wants.
func resumeGrace(d time.Duration, variable string) (time.Duration, error) {
	switch {
	case d != 0:
		return d, nil
	case variable == "":
		return DefaultResumeGrace, nil
	case variable == "0":
		return -1, nil
	}
	d, err := time.ParseDuration(variable)
	if err != nil || d < 0 {
		return 0, configError("resume-grace-malformed", "write a time, for example EBBGATE_RESUME_GRACE=120s; 0 turns it off", "EBBGATE_RESUME_GRACE is %.40q", variable)
	}
	if d == 0 {
		d = -1
	}
	return d, nil
}

// Run keeps the client connected until ctx ends (nil) or until an error that
// trying again cannot mend. When it returns, every stream is over. It is called
// once.
func (c *Client) Run(ctx context.Context) error {
	err := c.run(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	reason := bundle.CodeIngressStopped
	if codeOf(err) == "revoked" || codeOf(err) == "token-invalid" {
		reason = bundle.CodeRevoked
	}
	over := err
	if over == nil {
		over = net.ErrClosed
	}
	c.sessions.end(over)
	c.pool.close(reason)
	return err
}

// run is Run. The pool outlives the sessions for a moment, so that nodes are
// told why their streams end.
func (c *Client) run(ctx context.Context) error {
	if err := c.firstEnrolment(ctx); err != nil {
		return err
	}
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, broken := errgroup.WithContext(lasting)
	group.Go(func() error { return c.renew(broken) })
	for _, r := range c.relays {
		group.Go(func() error { return r.keep(broken, tunnel.RoleClient) })
		group.Go(func() error { return r.keep(broken, tunnel.RoleBulk) })
	}
	group.Go(func() error { c.ends.Run(broken); return nil })
	select {
	case <-ctx.Done():
		c.pool.close(bundle.CodeIngressStopped)
		c.reportLast()
	case <-broken.Done():
	}
	cancel()
	return group.Wait()
}

// Open opens a stream to a store. It waits for the session, for a node of the
// gateway that is online and for the node's answer, as long as ctx lasts.
func (c *Client) Open(ctx context.Context, t Target) (*Stream, error) {
	return c.pool.open(ctx, t)
}

// Check asks the relay whether the job may dial a target and, where a node is
// online, has everything ready for the first stream. No node online is no error.
func (c *Client) Check(ctx context.Context, t Target) error { return c.pool.check(ctx, t) }

// Await waits until the client is connected, as long as ctx lasts. It returns why
// it is not.
func (c *Client) Await(ctx context.Context) error {
	_, err := c.sessions.awaitAny(ctx)
	return err
}

// RunName names this process' run.
func (c *Client) RunName() string { return c.cfg.Run }

func configError(code, advice, format string, args ...any) *Error {
	return &Error{code: code, hop: "config", message: fmt.Sprintf(format, args...), advice: advice}
}

// maxRelays is more than an instance has.
const maxRelays = 16

// parseRelays reads one or several, separated by commas.
func parseRelays(s string) (list []tunnel.Endpoint, err error) {
	for _, one := range strings.Split(s, ",") {
		at, err := parseRelay(strings.TrimSpace(one))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(list, at) {
			list = append(list, at)
		}
	}
	if len(list) > maxRelays {
		return nil, configError("relay-malformed", "name two of them", "%d relays are more than %d", len(list), maxRelays)
	}
	return list, nil
}

// parseRelay reads host[:port].
func parseRelay(s string) (tunnel.Endpoint, error) {
	const advice = "name the relay with --relay HOST[:PORT] or EBBGATE_RELAY, for example relay.example.com:443; several with commas"
	if s == "" {
		return tunnel.Endpoint{}, configError("relay-missing", advice, "no relay is named")
	}
	host, port := s, defaultPort
	if h, p, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return tunnel.Endpoint{}, configError("relay-malformed", advice, "%.300q has an impossible port", s)
		}
		host, port = h, n
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if host == "" || strings.ContainsAny(host, " /,@[]") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return tunnel.Endpoint{}, configError("relay-malformed", advice, "%.300q is not HOST or HOST:PORT", s)
	}
	// Until the relay says otherwise, UDP is tried on the same port.
	return tunnel.Endpoint{Host: host, TLSPort: port, QUICPort: port, HTTPPort: defaultHTTPPort}, nil
}

func parseCarriers(list []string) (carriers []tunnel.Carrier, err error) {
	for _, s := range list {
		switch c := tunnel.Carrier(s); {
		case s == "auto" && len(list) == 1:
			return nil, nil
		case !slices.Contains(tunnel.Carriers, c), slices.Contains(carriers, c):
			return nil, configError("carrier-unknown", "use auto, quic, tls, wss or ws", "there is no carrier %.40q, or it is named twice", s)
		default:
			carriers = append(carriers, c)
		}
	}
	return carriers, nil
}

// readToken reads a token file. Its errors do not quote it.
func readToken(path string, stdin io.Reader) (certs.Token, error) {
	const advice = "put the token that ebbgate job create printed into a file that only this user may read, and name it with --token-file or EBBGATE_JOB_TOKEN_FILE"
	if path == "" {
		return certs.Token{}, configError("token-missing", advice, "no token file is named")
	}
	in := stdin
	if path == "-" {
		if in == nil {
			in = os.Stdin
		}
	} else {
		f, err := os.Open(path)
		if err != nil {
			e := configError("token-unreadable", advice, "the token file cannot be read")
			e.err = err
			return certs.Token{}, e
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxTokenFile+1))
	if err == nil && len(raw) > maxTokenFile {
		err = errors.New("it is too long")
	}
	if err != nil {
		e := configError("token-unreadable", advice, "the token file cannot be read")
		e.err = err
		return certs.Token{}, e
	}
	return certs.ParseToken(string(raw))
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
