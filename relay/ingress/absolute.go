package ingress

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxAnswerHeader bounds the header of a store's answer, in bytes.
	maxAnswerHeader = 64 << 10
	// storeIdle is how long a store's connection is kept for the next request.
	storeIdle = 5 * time.Second
	// wroteWait is how long the end of a request may come after the end of its
	// answer.
	wroteWait = time.Second
)

// storeClient is the HTTP client of one job's connection: it keeps connections
// to stores for that connection's next requests, of the same job and run.
type storeClient struct {
	job       Job
	transport *http.Transport
}

// storeClient gives the client for the connection's requests of a job.
func (c *Connect) storeClient(v *visit, job Job) *storeClient {
	c.keep(v)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.client != nil {
		if v.client.job == job {
			return v.client
		}
		v.client.transport.CloseIdleConnections()
	}
	v.client = &storeClient{job: job, transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return c.dialStore(ctx, v, job, address)
		},
		MaxIdleConns: 4, MaxIdleConnsPerHost: 1, IdleConnTimeout: storeIdle,
		MaxResponseHeaderBytes: maxAnswerHeader, ExpectContinueTimeout: time.Second,
		DisableCompression: true,
	}}
	return v.client
}

// keep remembers a connection that has a client for stores.
func (c *Connect) keep(v *visit) {
	c.mu.Lock()
	_, known := c.visits[v]
	c.visits[v] = struct{}{}
	c.mu.Unlock()
	if known {
		return
	}
	v.conn.onClose(func() {
		c.mu.Lock()
		delete(c.visits, v)
		c.mu.Unlock()
		v.closeIdle()
	})
}

// closeIdle ends the connections to stores that wait for a next request.
func (v *visit) closeIdle() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.client != nil {
		v.client.transport.CloseIdleConnections()
	}
}

// dialStore opens a stream for the HTTP client.
func (c *Connect) dialStore(ctx context.Context, v *visit, job Job, address string) (net.Conn, error) {
	target, err := ParseTarget(address)
	if err != nil {
		return nil, err
	}
	stream, err := c.dialer.Dial(ctx, job, target, v.conn.RemoteAddr())
	if err != nil {
		return nil, err
	}
	conn := newStoreConn(stream, target.String())
	c.carrying.Go(func() { c.tell(conn.carry(), job, target) })
	return conn, nil
}

// relay answers a request in absolute form (RFC 9112 §3.2.2) with what the store
// answers. An answer that the store did not end well is broken off by a reset of
// the job's connection, a request that the job did not end well by one of the
// store's.
func (c *Connect) relay(w http.ResponseWriter, r *http.Request, v *visit, job Job) {
	if r.URL.Scheme != "http" {
		c.refuse(w, r, &failure{"scheme-unsupported", "relay", "a proxy relays http:// in plain; " + clip(r.URL.Scheme, 20) + ":// is not", "use CONNECT, as programs do for https:// (curl --proxytunnel)"})
		return
	}
	target := r.URL.Host
	if r.URL.Port() == "" {
		target = net.JoinHostPort(r.URL.Hostname(), "80")
	}
	if _, err := ParseTarget(target); err != nil {
		c.refuse(w, r, err)
		return
	}
	v.proved()
	answer := http.NewResponseController(w)
	_ = answer.SetReadDeadline(time.Time{}) // a copy takes as long as it takes
	_ = answer.SetWriteDeadline(time.Time{})
	x := &exchange{visit: v, client: c.storeClient(v, job), wrote: make(chan error, 1)}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { rewrite(p, target) },
		Transport:     x,
		FlushInterval: -1,
		BufferPool:    copyBuffers,
		ErrorLog:      log.New(discard{}, "", 0), // the handler below says it
		ModifyResponse: func(answer *http.Response) error {
			answer.Header.Del("Ebbgate-Error") // it is ours alone
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // the job has gone
			}
			x.failed = true
			v.conn.disarmOnAnswer()
			c.refuse(w, r, storeError(err))
		},
	}
	v.conn.arm()
	defer func() {
		if p := recover(); p != nil {
			x.end(false)
			v.conn.reset()
			panic(p)
		}
	}()
	proxy.ServeHTTP(&hijacker{ResponseWriter: w, x: x}, r)
	x.end(!x.failed)
	if x.failed || x.upgraded != nil {
		return
	}
	c.metrics.requests.WithLabelValues("ok").Inc()
	// What is still to be written says by itself when it is cut off, but for an
	// answer that ends with the connection: of that, nothing is to be written.
	if answer.Flush() == nil {
		v.conn.disarm()
	}
}

// rewrite makes the request that the store gets. What concerns the proxy alone,
// the token first of all, is not in it any more.
func rewrite(p *httputil.ProxyRequest, target string) {
	p.Out.URL.Host = target
	p.Out.URL.User = nil
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := p.In.Header[name]; ok { // the job's own
			p.Out.Header[name] = values
		}
	}
	if host, ok := cutPortZero(p.Out.Host); ok {
		p.Out.Host = host
	}
}

// cutPortZero takes the port 0 away, which no store knows.
func cutPortZero(host string) (string, bool) {
	if h, port, err := net.SplitHostPort(host); err == nil && port == "0" {
		return h, true
	}
	return "", false
}

// storeError is why there is no answer of the store.
func storeError(err error) error {
	var e coded
	if errors.As(err, &e) {
		return err
	}
	return &failure{"store-no-answer", "store", "the store gave no proper answer in HTTP: " + clip(err.Error(), 200), "is this a store that speaks plain HTTP?"}
}

// exchange is one request and its answer. It belongs to the goroutine of its
// request.
type exchange struct {
	visit    *visit
	client   *storeClient
	conn     *storeConn   // the last one that was tried
	wrote    chan error   // how writing the request ended; the first one counts
	body     *countedBody // of a request with a length
	failed   bool
	upgraded *upgradedConn
}

// RoundTrip asks the store.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			if x.conn != nil {
				x.conn.end(false) // it is tried again on another one
			}
			x.conn = got.Conn.(*storeConn)
			x.conn.begin()
		},
		WroteRequest: func(wrote httptrace.WroteRequestInfo) {
			select {
			case x.wrote <- wrote.Err:
			default:
			}
		},
	}
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), trace))
	if r.Body != nil && r.ContentLength > 0 {
		x.body = &countedBody{ReadCloser: r.Body}
		x.body.left.Store(r.ContentLength)
		r.Body = x.body
	}
	return x.client.transport.RoundTrip(r)
}

// end says to the store's connection whether all was whole.
func (x *exchange) end(whole bool) {
	switch {
	case x.conn == nil:
		return
	case x.upgraded != nil:
		whole = x.conn.Half() && x.conn.Ended()
	case whole && (x.body == nil || x.body.left.Load() > 0 || !x.conn.Whole()):
		// net/http also looks for more than the length says, after the handler
		// has gone, so that its word counts only where the length says nothing
		timer := time.NewTimer(wroteWait)
		defer timer.Stop()
		select {
		case err := <-x.wrote:
			whole = err == nil
		case <-timer.C:
			whole = false // the store did not wait for all of the request
		}
	}
	x.conn.end(whole)
}

// countedBody counts what is left to be read of a request.
type countedBody struct {
	io.ReadCloser
	left atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left.Add(-int64(n))
	return n, err
}

// hijacker gives a job's connection away for another protocol (RFC 9110 §7.8).
type hijacker struct {
	http.ResponseWriter
	x *exchange
}

// Unwrap is for http.ResponseController.
func (h *hijacker) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// Hijack is http.Hijacker's.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	h.x.upgraded = &upgradedConn{armedConn: h.x.visit.conn, in: buffered.Reader}
	return h.x.upgraded, buffered, nil
}

// upgradedConn is a job's connection that speaks another protocol. It closes with
// a reset unless both directions ended well.
type upgradedConn struct {
	*armedConn
	in    *bufio.Reader
	ended atomic.Bool // by the job
	half  atomic.Bool // by the store
}

// Read reads first what was read ahead.
func (u *upgradedConn) Read(p []byte) (n int, err error) {
	if u.in.Buffered() > 0 {
		return u.in.Read(p[:min(len(p), u.in.Buffered())])
	}
	n, err = u.armedConn.Read(p)
	if errors.Is(err, io.EOF) {
		u.ended.Store(true)
	}
	return n, err
}

// Write is no answer of the ingress' own.
func (u *upgradedConn) Write(p []byte) (int, error) { return u.Socket.Write(p) }

// CloseWrite ends the direction to the job as the store ended it.
func (u *upgradedConn) CloseWrite() error {
	err := u.armedConn.CloseWrite()
	if err == nil {
		u.half.Store(true)
	}
	return err
}

// Close closes well where both directions ended well.
func (u *upgradedConn) Close() error {
	if u.ended.Load() && u.half.Load() {
		u.disarm()
	}
	return u.armedConn.Close()
}

// copyBuffers are for answers' bodies.
var copyBuffers = &bufferPool{pool: sync.Pool{New: func() any { return new([64 << 10]byte) }}}

type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte  { return b.pool.Get().(*[64 << 10]byte)[:] }
func (b *bufferPool) Put(p []byte) { b.pool.Put((*[64 << 10]byte)(p)) }

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
