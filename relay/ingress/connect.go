package ingress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Job is a job that has proved who it is.
type Job struct {
	Tenant, Name string
	Run          string // as the user name said it; may be empty
}

// Stream is an open stream; *bundle.Stream is one.
type Stream interface {
	Carry(sock bundle.Socket, prefix []byte) bundle.Report
	Reset(reason bundle.Code)
}

// Dialer is the relay behind an ingress.
type Dialer interface {
	// Authenticate checks a job's name and token. name may be empty where
	// the token came alone. peer is where it comes from, host:port. An error
	// with a method Suspicious that says true has the connection closed.
	Authenticate(ctx context.Context, name, token, peer string) (Job, error)
	// Dial opens a stream for the job. peer is where its connection comes
	// from. Errors have a Code.
	Dial(ctx context.Context, job Job, target Target, peer net.Addr) (Stream, error)
}

// coded is an error that names its reason, its hop and what to do.
type coded interface {
	error
	Code() string
}

// codeOf is the code of an error; internal where it has none.
func codeOf(err error) string {
	var e coded
	if errors.As(err, &e) {
		return e.Code()
	}
	return "internal"
}

func isSuspicious(err error) bool {
	var s interface{ Suspicious() bool }
	return errors.As(err, &s) && s.Suspicious()
}

type advised interface {
	Hop() string
	Advice() string
}

// statuses are the answers by the code of what went wrong; every other code is
// a 502.
var statuses = map[string]int{
	"token-missing":      http.StatusProxyAuthRequired,
	"token-invalid":      http.StatusProxyAuthRequired,
	"token-malformed":    http.StatusProxyAuthRequired,
	"job-not-allowed":    http.StatusForbidden,
	"store-not-allowed":  http.StatusForbidden,
	"address-refused":    http.StatusForbidden,
	"revoked":            http.StatusForbidden,
	"gateway-unknown":    http.StatusNotFound,
	"store-unknown":      http.StatusNotFound,
	"port-mismatch":      http.StatusNotFound,
	"alias-ambiguous":    http.StatusNotFound,
	"no-node-online":     http.StatusServiceUnavailable,
	"node-elsewhere":     http.StatusServiceUnavailable,
	"node-busy":          http.StatusServiceUnavailable,
	"node-draining":      http.StatusServiceUnavailable,
	"node-stopped":       http.StatusServiceUnavailable,
	"lanes-lost":         http.StatusServiceUnavailable,
	"end-restarted":      http.StatusServiceUnavailable,
	"relay-draining":     http.StatusServiceUnavailable,
	"queue-timeout":      http.StatusServiceUnavailable,
	"store-timeout":      http.StatusGatewayTimeout,
	"target-malformed":   http.StatusBadRequest,
	"scheme-unsupported": http.StatusBadRequest,
	"run-invalid":        http.StatusBadRequest,
}

// Connect is an HTTP proxy: for CONNECT, and for plain HTTP in absolute form. It has a server of its own,
// Serve, and can be the handler of another one, whose connections [Secure] made.
type Connect struct {
	door
	server *http.Server
	visits map[*visit]struct{} // with connections to stores; guarded by mu
}

// maxConnections bounds the connections that an ingress holds at once.
const maxConnections = 20000

// NewConnect makes the server; it listens on nothing.
func NewConnect(dialer Dialer, logger *slog.Logger, metrics *Metrics) *Connect {
	c := &Connect{door: newDoor(dialer, logger, metrics), visits: make(map[*visit]struct{})}
	c.server = &http.Server{
		Handler:           c,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       60 * time.Second,
		WriteTimeout:      60 * time.Second, // of an answer of its own, with the dial before it
		MaxHeaderBytes:    16 << 10,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			ctx = WithConn(ctx, conn, func() {})
			if v := visitOf(ctx); v != nil {
				v.conn.onClose(func() {
					if !v.asked.Load() {
						c.metrics.requests.WithLabelValues("silence").Inc()
					}
				})
			}
			return ctx
		},
		ErrorLog: slog.NewLogLogger(c.logger.Handler(), slog.LevelDebug),
	}
	return c
}

// Serve accepts on l until ctx ends, l is closed or Drain was called; streams go
// on after that. It returns nil then.
func (c *Connect) Serve(ctx context.Context, l *Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = c.server.Close() })
	defer stop()
	err := c.server.Serve(newGate(l, maxConnections, c.uninvited))
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("ingress: connect: %w", err)
}

// Drain stops accepting and waits until every stream is over or ctx ends.
// Requests that come over connections that are open already are refused.
func (c *Connect) Drain(ctx context.Context) error {
	c.shut()
	c.mu.Lock()
	visits := slices.Collect(maps.Keys(c.visits))
	c.mu.Unlock()
	for _, v := range visits {
		v.closeIdle()
	}
	_ = c.server.Shutdown(ctx) // idle connections; hijacked ones are ours
	return c.wait(ctx)
}

// ServeHTTP answers one request, of a server whose connections' contexts come from
// [WithConn]. An open stream is carried before it returns.
func (c *Connect) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r.Context())
	if v != nil {
		v.asked.Store(true)
	}
	if !c.enter() {
		c.refuse(w, r, &failure{"relay-draining", "relay", "the relay is shutting down, or has too many connections", "try again; another relay or the restarted one will answer"})
		return
	}
	defer c.exit()
	absolute := r.URL.IsAbs() && r.Method != http.MethodConnect
	if !absolute && r.Method != http.MethodConnect {
		w.Header().Set("Allow", http.MethodConnect)
		c.metrics.requests.WithLabelValues("method").Inc()
		http.Error(w, "this is an Ebbgate ingress: use it as an HTTP proxy, for example\n  curl --proxy http://JOB:TOKEN@"+r.Host+" http://STORE.GATEWAY:PORT/", http.StatusMethodNotAllowed)
		return
	}
	name, token, err := credentials(r)
	if err != nil {
		c.refuse(w, r, err)
		return
	}
	job, err := c.dialer.Authenticate(r.Context(), jobOf(name), token, r.RemoteAddr)
	if err != nil {
		c.refuse(w, r, err)
		return
	}
	if job.Run, err = runOf(name); err != nil {
		c.refuse(w, r, err)
		return
	}
	if v == nil {
		c.refuse(w, r, &failure{"internal", "relay", "the connection cannot be taken over", "use HTTP/1.1"})
		return
	}
	if absolute {
		c.relay(w, r, v, job)
		return
	}
	target, err := ParseTarget(r.RequestURI)
	if err != nil {
		c.refuse(w, r, err)
		return
	}
	c.tunnel(w, r, v, job, target)
}

// tunnel dials and carries. From the dial on, the socket is armed: it closes
// with a reset unless the stream ends well.
func (c *Connect) tunnel(w http.ResponseWriter, r *http.Request, v *visit, job Job, target Target) {
	v.proved()
	sock := v.conn
	sock.arm()
	answered := sock.awaitAnswer()
	stream, err := c.dialer.Dial(r.Context(), job, target, sock.RemoteAddr())
	answered()
	if err != nil {
		sock.disarmOnAnswer()
		c.refuse(w, r, err)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = sock.Close()
	}
	prefix := []byte(nil)
	if err == nil {
		_ = conn.SetDeadline(time.Time{})
		prefix, _ = buffered.Reader.Peek(buffered.Reader.Buffered())
		_, err = sock.Socket.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
	}
	if err != nil {
		_ = sock.Close()
	}
	c.carry(stream, sock, prefix, job, target)
}

// refuse answers what went wrong: status, code in Ebbgate-Error, text.
func (c *Connect) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code, status := codeOf(err), http.StatusBadGateway
	if s, ok := statuses[code]; ok {
		status = s
	}
	c.metrics.requests.WithLabelValues(code).Inc()
	if isSuspicious(err) {
		w.Header().Set("Connection", "close")
	}
	text := err.Error()
	var a advised
	if errors.As(err, &a) {
		text = fmt.Sprintf("%s: %s", a.Hop(), text)
		if a.Advice() != "" {
			text += "\n" + a.Advice()
		}
	}
	c.refusals.refused("from", r.RemoteAddr, "target", strconv.Quote(clip(r.RequestURI, 200)), "code", code, "error", err)
	w.Header().Set("Ebbgate-Error", code)
	if status == http.StatusProxyAuthRequired {
		w.Header().Set("Proxy-Authenticate", `Basic realm="Ebbgate", charset="UTF-8"`)
	}
	http.Error(w, text, status)
}

// failure is an error of the ingress itself.
type failure struct{ code, hop, text, advice string }

func (f *failure) Error() string  { return f.text }
func (f *failure) Code() string   { return f.code }
func (f *failure) Hop() string    { return f.hop }
func (f *failure) Advice() string { return f.advice }

const tokenAdvice = "give the job's token as the proxy password: http://JOB:TOKEN@HOST:PORT"

// credentials takes name and token out of Proxy-Authorization (RFC 9110
// §11.7.2): Basic, or Bearer with the token alone.
func credentials(r *http.Request) (name, token string, err error) {
	header := r.Header.Get("Proxy-Authorization")
	if header == "" {
		return "", "", &failure{"token-missing", "relay", "the request carries no job token", tokenAdvice}
	}
	scheme, rest, _ := strings.Cut(header, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case strings.EqualFold(scheme, "Bearer") && rest != "":
		return "", rest, nil
	case strings.EqualFold(scheme, "Basic"):
		raw, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			break
		}
		name, token, ok := strings.Cut(string(raw), ":")
		if ok && token != "" {
			return name, token, nil
		}
	}
	return "", "", &failure{"token-malformed", "relay", "Proxy-Authorization is neither Basic with JOB:TOKEN nor Bearer with a token", tokenAdvice}
}

func jobOf(user string) string { name, _, _ := strings.Cut(user, "/"); return name }

// runOf is the run that a user name names: at most 128 printable characters.
func runOf(user string) (string, error) {
	_, run, _ := strings.Cut(user, "/")
	if len(run) > maxRun || strings.ContainsFunc(run, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return "", &failure{"run-invalid", "relay", "the run's name has more than 128 bytes or characters that do not print", "name the run in the proxy user with a short text: JOB/RUN"}
	}
	return run, nil
}

const maxRun = 128

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
