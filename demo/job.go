package demo

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

const (
	jobStallTimeout = 60 * time.Second // without a byte either way
	jobBuffer       = 256 << 10
)

// JobConfig is what a copy job is given: an ingress to go through and a token.
type JobConfig struct {
	// Ingress is host:port of the HTTP CONNECT ingress.
	Ingress string
	// Name and Token authenticate the job there (Basic, RFC 7617).
	Name, Token string
	// Roots is what the job believes of stores' certificates.
	Roots *x509.CertPool
}

// Job copies between local files and objects of a store behind a gateway. It is
// an ordinary HTTP client: an [http.Transport] that has the ingress as its
// proxy, which is all that a program needs to use Ebbgate.
type Job struct {
	transport *http.Transport
}

// Copy is one object that was copied.
type Copy struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	// SHA256Source and SHA256Copy are computed from the two files, each by the
	// side that has it, and neither from the bytes on their way.
	SHA256Source string `json:"sha256_source"`
	SHA256Copy   string `json:"sha256_copy"`
}

// Equal says whether both ends have the same bytes.
func (c Copy) Equal() bool { return c.SHA256Source != "" && c.SHA256Source == c.SHA256Copy }

// IngressError is a CONNECT that the ingress refused.
type IngressError struct {
	Status string // as in 502 Bad Gateway
	Reason string // the header Ebbgate-Error
}

func (e *IngressError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("demo: the ingress answered %q", e.Status)
	}
	return fmt.Sprintf("demo: the ingress answered %q: %.200q", e.Status, e.Reason)
}

// errStalled is the cause of a copy that was given up.
var errStalled = errors.New("demo: no byte moved for " + jobStallTimeout.String())

// NewJob makes a job; it connects to nothing.
func NewJob(cfg JobConfig) *Job {
	ingress := &url.URL{Scheme: "http", Host: cfg.Ingress, User: url.UserPassword(cfg.Name, cfg.Token)}
	return &Job{transport: &http.Transport{
		Proxy:                  http.ProxyURL(ingress),
		OnProxyConnectResponse: checkIngress,
		TLSClientConfig:        &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS13},
		TLSHandshakeTimeout:    20 * time.Second,
		ResponseHeaderTimeout:  jobStallTimeout,
		IdleConnTimeout:        jobStallTimeout,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
		ReadBufferSize:         jobBuffer,
		WriteBufferSize:        jobBuffer,
	}}
}

// Close drops connections that are kept for the next copy.
func (j *Job) Close() { j.transport.CloseIdleConnections() }

func checkIngress(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &IngressError{Status: resp.Status, Reason: resp.Header.Get("Ebbgate-Error")}
}

// Ping asks for an object's header and says how long the answer took. On a
// connection that is already there, that is one round trip to the store.
func (j *Job) Ping(ctx context.Context, object string) (time.Duration, error) {
	start := time.Now()
	_, _, err := j.head(ctx, object)
	return time.Since(start), err
}

// Download copies an object to a file. progress, where not nil, is told how many
// bytes have been moved.
func (j *Job) Download(ctx context.Context, object, path string, progress func(int64)) (Copy, error) {
	sum, size, err := j.head(ctx, object)
	if err != nil {
		return Copy{}, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Copy{}, fmt.Errorf("demo: download: %w", err)
	}
	defer f.Close()
	watch := newWatch(ctx, progress)
	defer watch.stop()
	start := time.Now()
	resp, err := j.do(watch.ctx, http.MethodGet, object, nil, 0)
	if err != nil {
		return Copy{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != size {
		return Copy{}, fmt.Errorf("demo: download: the store answered %q with %d bytes, announced were %d", resp.Status, resp.ContentLength, size)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, watch.reader(resp.Body), make([]byte, jobBuffer))
	if err == nil {
		err = f.Close()
	}
	seconds := time.Since(start).Seconds()
	if err != nil {
		return Copy{}, fmt.Errorf("demo: download: after %d bytes of %d: %w", n, size, watch.explain(err))
	}
	return compared(sum, path, n, seconds, true)
}

// Upload copies a file to an object.
func (j *Job) Upload(ctx context.Context, path, object string, progress func(int64)) (Copy, error) {
	f, err := os.Open(path)
	if err != nil {
		return Copy{}, fmt.Errorf("demo: upload: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Copy{}, fmt.Errorf("demo: upload: %w", err)
	}
	watch := newWatch(ctx, progress)
	defer watch.stop()
	start := time.Now()
	resp, err := j.do(watch.ctx, http.MethodPut, object, watch.reader(f), info.Size())
	if err != nil {
		return Copy{}, watch.explain(err)
	}
	resp.Body.Close()
	seconds := time.Since(start).Seconds()
	if resp.StatusCode != http.StatusCreated {
		return Copy{}, fmt.Errorf("demo: upload: the store answered %q", resp.Status)
	}
	sum, size, err := j.head(ctx, object)
	if err != nil {
		return Copy{}, err
	}
	return compared(sum, path, size, seconds, false)
}

// compared hashes this side's file and sets it beside what the store hashed.
func compared(store [sha256.Size]byte, path string, n int64, seconds float64, download bool) (Copy, error) {
	local, size, err := hashFile(path)
	if err != nil {
		return Copy{}, fmt.Errorf("demo: compare: %w", err)
	}
	if size != n {
		return Copy{}, fmt.Errorf("demo: compare: one file has %d bytes, the other %d", n, size)
	}
	source, copied := local, store
	if download {
		source, copied = store, local
	}
	return Copy{Bytes: n, Seconds: seconds, SHA256Source: hexOf(source), SHA256Copy: hexOf(copied)}, nil
}

// head gives what the store says of an object.
func (j *Job) head(ctx context.Context, object string) (sum [sha256.Size]byte, size int64, err error) {
	resp, err := j.do(ctx, http.MethodHead, object, nil, 0)
	if err != nil {
		return sum, 0, err
	}
	resp.Body.Close()
	sum, ok := digestOf(resp.Header)
	if resp.StatusCode != http.StatusOK || !ok || resp.ContentLength < 0 {
		return sum, 0, fmt.Errorf("demo: the store answered %q to a question about its object", resp.Status)
	}
	return sum, resp.ContentLength, nil
}

func (j *Job) do(ctx context.Context, method, object string, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, object, body)
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	if body != nil {
		req.ContentLength = size
	}
	resp, err := j.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("demo: %s: %w", method, err)
	}
	return resp, nil
}

// watch counts the bytes of one copy and ends it when none come.
type watch struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	progress func(int64)
	moved    int64
}

func newWatch(ctx context.Context, progress func(int64)) *watch {
	w := &watch{progress: progress}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(jobStallTimeout, func() { w.cancel(errStalled) })
	return w
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain gives the reason of a cancelled context instead of the bare fact.
func (w *watch) explain(err error) error {
	if cause := context.Cause(w.ctx); errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

func (w *watch) reader(r io.Reader) io.Reader { return &watchedReader{r: r, w: w} }

type watchedReader struct {
	r io.Reader
	w *watch
}

func (r *watchedReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if n > 0 {
		r.w.moved += int64(n)
		r.w.timer.Reset(jobStallTimeout)
		if r.w.progress != nil {
			r.w.progress(r.w.moved)
		}
	}
	return n, err
}

func hexOf(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:]) }
