package demo

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// ingress is a CONNECT proxy as a job sees one: it wants a token, and passes
// bytes on to one place. cut, where positive, resets each connection after so
// many bytes towards the job.
type ingress struct {
	target string
	cut    int64
}

func (i *ingress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("copy:ebbjob_token"))
	switch {
	case r.Header.Get("Proxy-Authorization") != want:
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	case r.Host != "objects.corp:443":
		w.Header().Set("Ebbgate-Error", "store-unknown")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	far, err := net.Dial("tcp", i.target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer far.Close()
	w.WriteHeader(http.StatusOK)
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(far, rw.Reader)
		far.(*net.TCPConn).CloseWrite()
	}()
	if i.cut > 0 {
		io.CopyN(conn, far, i.cut)
		conn.(*boundedConn).SetLinger(0)
	} else {
		io.Copy(conn, far)
	}
	conn.Close()
	<-done
}

// startPath starts a TLS store and an ingress in front of it.
func startPath(t *testing.T, in *ingress) (s *Store, addr string, roots *x509.CertPool) {
	t.Helper()
	config, roots, err := storeCertificate("objects.corp")
	if err != nil {
		t.Fatal(err)
	}
	s = NewStore(t.TempDir())
	sln := listenTCP(t)
	serveInTest(t, func(ctx context.Context) error {
		return s.Serve(ctx, sln, func(l net.Listener) net.Listener { return tls.NewListener(l, config) })
	})
	in.target = sln.Addr().String()
	iln := listenTCP(t)
	serveInTest(t, func(ctx context.Context) error {
		return serveUntil(ctx, &http.Server{Handler: in}, newBoundedListener(iln, 16))
	})
	return s, iln.Addr().String(), roots
}

func TestJobCopiesBothWays(t *testing.T) {
	s, addr, roots := startPath(t, &ingress{})
	job := NewJob(JobConfig{Ingress: addr, Name: "copy", Token: "ebbjob_token", Roots: roots})
	defer job.Close()
	dir := t.TempDir()
	body := make([]byte, 5<<20+11)
	rand.Read(body)
	source, copied := filepath.Join(dir, "source"), filepath.Join(dir, "copy")
	if err := os.WriteFile(source, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("source.bin", source); err != nil {
		t.Fatal(err)
	}
	var moved atomic.Int64
	read, err := job.Download(t.Context(), "https://objects.corp/source.bin", copied, moved.Store)
	if err != nil {
		t.Fatal(err)
	}
	if !read.Equal() || read.Bytes != int64(len(body)) || read.Seconds <= 0 || moved.Load() != read.Bytes {
		t.Errorf("read %+v, progress %d", read, moved.Load())
	}
	write, err := job.Upload(t.Context(), copied, "https://objects.corp/back.bin", moved.Store)
	if err != nil {
		t.Fatal(err)
	}
	if !write.Equal() || write.Bytes != read.Bytes || write.SHA256Source != read.SHA256Source {
		t.Errorf("write %+v", write)
	}
	if d, err := job.Ping(t.Context(), "https://objects.corp/back.bin"); err != nil || d <= 0 {
		t.Errorf("ping: %v, %v", d, err)
	}
	// What the store has on disk decides, not what went through its hands.
	f, err := os.OpenFile(s.Path("back.bin"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{body[100] ^ 1}, 100); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.Add("changed.bin", s.Path("back.bin")); err != nil {
		t.Fatal(err)
	}
	if sum, _, err := job.head(t.Context(), "https://objects.corp/changed.bin"); err != nil || hexOf(sum) == read.SHA256Source {
		t.Errorf("a changed file has the digest %s, %v", hexOf(sum), err)
	}
}

func TestJobErrors(t *testing.T) {
	s, addr, roots := startPath(t, &ingress{})
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("a", source); err != nil {
		t.Fatal(err)
	}
	var ingressErr *IngressError

	wrong := NewJob(JobConfig{Ingress: addr, Name: "copy", Token: "another", Roots: roots})
	defer wrong.Close()
	if _, err := wrong.Ping(t.Context(), "https://objects.corp/a"); !errors.As(err, &ingressErr) || ingressErr.Status != "407 Proxy Authentication Required" {
		t.Errorf("wrong token: %v", err)
	}
	job := NewJob(JobConfig{Ingress: addr, Name: "copy", Token: "ebbjob_token", Roots: roots})
	defer job.Close()
	if _, err := job.Ping(t.Context(), "https://other.corp/a"); !errors.As(err, &ingressErr) || ingressErr.Reason != "store-unknown" {
		t.Errorf("unknown store: %v", err)
	}
	if _, err := job.Download(t.Context(), "https://objects.corp/absent", filepath.Join(t.TempDir(), "x"), nil); err == nil {
		t.Error("an absent object was downloaded")
	}
	if _, err := job.Download(t.Context(), "https://objects.corp/a", source, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("onto a file that is there: %v", err)
	}
}

func TestJobTellsACutDownload(t *testing.T) {
	s, addr, roots := startPath(t, &ingress{cut: 300_000})
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("a", source); err != nil {
		t.Fatal(err)
	}
	job := NewJob(JobConfig{Ingress: addr, Name: "copy", Token: "ebbjob_token", Roots: roots})
	defer job.Close()
	c, err := job.Download(t.Context(), "https://objects.corp/a", filepath.Join(t.TempDir(), "x"), nil)
	if err == nil || c.Equal() {
		t.Errorf("a cut download: %+v, %v", c, err)
	}
}
