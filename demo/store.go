package demo

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Bounds of the object store.
const (
	storeConnections  = 128
	storeObjects      = 1024
	storeObjectSize   = 1 << 40 // bytes
	storeHeaderBytes  = 16 << 10
	storeStallTimeout = 60 * time.Second // without a byte either way
	storeBuffer       = 256 << 10
)

var objectName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Store is an object store over HTTP: GET, HEAD and PUT of /NAME. Objects are
// files. An object's SHA-256 is computed from its file, not from what passed
// through the store, and is its ETag and its Repr-Digest (RFC 9530).
type Store struct {
	dir string

	mu      sync.Mutex // guards objects; never held across I/O
	objects map[string]*object
}

// object is a finished file. Objects are replaced, never changed.
type object struct {
	path string
	size int64
	time time.Time
	own  bool // the file is the store's, to be removed when it is replaced

	digest sync.Once // computes what follows
	sum    [sha256.Size]byte
	err    error
}

// NewStore makes a store that keeps what it is given in dir, which exists.
func NewStore(dir string) *Store {
	return &Store{dir: dir, objects: make(map[string]*object)}
}

// Add serves a file that already exists as an object. The store never changes
// or removes it.
func (s *Store) Add(name, path string) error {
	if !objectName.MatchString(name) {
		return fmt.Errorf("demo: object name %q", name)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("demo: add object: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("demo: add object: %s is not a regular file", path)
	}
	return s.put(name, &object{path: path, size: info.Size(), time: info.ModTime()})
}

// Remove forgets an object, and removes its file unless it came by Add.
func (s *Store) Remove(name string) {
	s.mu.Lock()
	old := s.objects[name]
	delete(s.objects, name)
	s.mu.Unlock()
	old.discard()
}

// Path is where an object's bytes are; "" where there is none.
func (s *Store) Path(name string) string {
	if o := s.object(name); o != nil {
		return o.path
	}
	return ""
}

// Serve answers requests on ln until ctx ends, and closes it. wrap, where it is
// not nil, makes the listener that is served out of the bounded one: TLS.
func (s *Store) Serve(ctx context.Context, ln *net.TCPListener, wrap func(net.Listener) net.Listener) error {
	var l net.Listener = newBoundedListener(ln, storeConnections)
	if wrap != nil {
		l = wrap(l)
	}
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       storeStallTimeout,
		MaxHeaderBytes:    storeHeaderBytes,
	}
	return serveUntil(ctx, srv, l)
}

// ServeHTTP implements [http.Handler].
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	if !objectName.MatchString(name) {
		http.Error(w, "no such object", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		s.get(w, r, name)
	case http.MethodPut:
		s.receive(w, r, name)
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT")
		http.Error(w, "objects are read and replaced", http.StatusMethodNotAllowed)
	}
}

func (s *Store) get(w http.ResponseWriter, r *http.Request, name string) {
	o := s.object(name)
	if o == nil {
		http.Error(w, "no such object", http.StatusNotFound)
		return
	}
	sum, err := o.sha256()
	if err != nil {
		http.Error(w, "the object cannot be read", http.StatusInternalServerError)
		return
	}
	f, err := os.Open(o.path)
	if err != nil {
		http.Error(w, "the object cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	setDigest(w.Header(), sum)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(&stallWriter{ResponseWriter: w, control: http.NewResponseController(w)}, r, "", o.time, f)
}

// receive stores a PUT. Nothing is visible before every byte is on disk.
func (s *Store) receive(w http.ResponseWriter, r *http.Request, name string) {
	switch {
	case r.ContentLength < 0:
		http.Error(w, "Content-Length is required", http.StatusLengthRequired)
		return
	case r.ContentLength > storeObjectSize:
		http.Error(w, "the object is too large", http.StatusRequestEntityTooLarge)
		return
	}
	f, err := os.CreateTemp(s.dir, "put-*")
	if err != nil {
		http.Error(w, "the object cannot be stored", http.StatusInsufficientStorage)
		return
	}
	o := &object{path: f.Name(), size: r.ContentLength, time: time.Now(), own: true}
	body := &stallReader{r: r.Body, control: http.NewResponseController(w)}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, body, make([]byte, storeBuffer))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && n == r.ContentLength {
		err = s.put(name, o)
	} else if err == nil {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		o.discard()
		http.Error(w, "the object was not stored", http.StatusInsufficientStorage)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

var errStoreFull = errors.New("demo: the store has too many objects")

// put makes an object visible and discards the one that it replaces.
func (s *Store) put(name string, o *object) error {
	s.mu.Lock()
	old := s.objects[name]
	if old == nil && len(s.objects) >= storeObjects {
		s.mu.Unlock()
		return errStoreFull
	}
	s.objects[name] = o
	s.mu.Unlock()
	old.discard()
	return nil
}

func (s *Store) object(name string) *object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[name]
}

func (o *object) discard() {
	if o != nil && o.own {
		os.Remove(o.path) // who reads it still has it open
	}
}

// sha256 reads the file once.
func (o *object) sha256() ([sha256.Size]byte, error) {
	o.digest.Do(func() {
		var n int64
		if o.sum, n, o.err = hashFile(o.path); o.err == nil && n != o.size {
			o.err = fmt.Errorf("demo: %s changed: %d bytes, was %d", filepath.Base(o.path), n, o.size)
		}
	})
	return o.sum, o.err
}

// hashFile gives a file's SHA-256 and its size.
func hashFile(path string) (sum [sha256.Size]byte, n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err = io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, storeBuffer))
	return [sha256.Size]byte(h.Sum(nil)), n, err
}

// setDigest writes an object's SHA-256 as entity tag and digest.
func setDigest(h http.Header, sum [sha256.Size]byte) {
	h.Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
	h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
}

// digestOf reads what setDigest wrote.
func digestOf(h http.Header) (sum [sha256.Size]byte, ok bool) {
	value, ok := strings.CutPrefix(h.Get("Repr-Digest"), "sha-256=:")
	if !ok {
		return sum, false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(value, ":"))
	if err != nil || len(b) != len(sum) {
		return sum, false
	}
	return [sha256.Size]byte(b), true
}

// stallWriter gives each write a deadline of its own, so that a slow reader may
// take its time and a dead one may not.
type stallWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (w *stallWriter) Write(b []byte) (int, error) {
	if err := w.control.SetWriteDeadline(time.Now().Add(storeStallTimeout)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(b)
}

// stallReader is the same for a request's body.
type stallReader struct {
	r       io.Reader
	control *http.ResponseController
}

func (r *stallReader) Read(b []byte) (int, error) {
	if err := r.control.SetReadDeadline(time.Now().Add(storeStallTimeout)); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
