package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func startStore(t *testing.T) (s *Store, url string, stop func()) {
	t.Helper()
	ln := listenTCP(t)
	s = NewStore(t.TempDir())
	stop = serveInTest(t, func(ctx context.Context) error { return s.Serve(ctx, ln, nil) })
	return s, "http://" + ln.Addr().String() + "/", stop
}

func request(t *testing.T, method, url string, body io.Reader, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, got
}

func TestStoreKeepsObjects(t *testing.T) {
	_, url, _ := startStore(t)
	first, second := make([]byte, 3<<20+7), []byte("short")
	rand.Read(first)
	for _, body := range [][]byte{first, second, {}} {
		if resp, _ := request(t, "PUT", url+"a.bin", bytes.NewReader(body)); resp.StatusCode != http.StatusCreated {
			t.Fatalf("PUT: %s", resp.Status)
		}
		resp, got := request(t, "GET", url+"a.bin", nil)
		sum, ok := digestOf(resp.Header)
		if resp.StatusCode != http.StatusOK || !bytes.Equal(got, body) || !ok || sum != sha256.Sum256(body) {
			t.Errorf("GET: %s, %d bytes of %d, digest %x", resp.Status, len(got), len(body), sum)
		}
		head, _ := request(t, "HEAD", url+"a.bin", nil)
		if head.ContentLength != int64(len(body)) || head.Header.Get("ETag") != resp.Header.Get("ETag") {
			t.Errorf("HEAD: %d bytes, %v", head.ContentLength, head.Header)
		}
		if resp, _ := request(t, "GET", url+"a.bin", nil, "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != http.StatusNotModified {
			t.Errorf("GET with the same tag: %s", resp.Status)
		}
	}
	if resp, got := request(t, "GET", url+"a.bin", nil); len(got) != 0 || resp.ContentLength != 0 {
		t.Errorf("the last one was empty, got %d bytes", len(got))
	}
}

func TestStoreServesAFileInPlace(t *testing.T) {
	s, url, _ := startStore(t)
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, []byte("the tide goes out"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("source", path); err != nil {
		t.Fatal(err)
	}
	if _, got := request(t, "GET", url+"source", nil, "Range", "bytes=4-7"); string(got) != "tide" {
		t.Errorf("a range: %q", got)
	}
	if resp, _ := request(t, "PUT", url+"source", strings.NewReader("another")); resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file was removed: %v", err)
	}
	stored := s.Path("source")
	s.Remove("source")
	if _, err := os.Stat(stored); !os.IsNotExist(err) {
		t.Errorf("the stored object is still there: %v", err)
	}
	if err := s.Add("folder", t.TempDir()); err == nil {
		t.Error("a folder was added")
	}
}

func TestStoreRefuses(t *testing.T) {
	s, url, _ := startStore(t)
	for _, tc := range []struct {
		method, name string
		body         io.Reader
		status       int
	}{
		{"GET", "absent", nil, http.StatusNotFound},
		{"GET", "", nil, http.StatusNotFound},
		{"GET", "a/b", nil, http.StatusNotFound},
		{"GET", "..%2f..%2fetc%2fpasswd", nil, http.StatusNotFound},
		{"PUT", ".hidden", strings.NewReader("x"), http.StatusNotFound},
		{"PUT", strings.Repeat("n", 129), strings.NewReader("x"), http.StatusNotFound},
		{"PUT", "chunked", struct{ io.Reader }{strings.NewReader("x")}, http.StatusLengthRequired},
		{"DELETE", "absent", nil, http.StatusMethodNotAllowed},
	} {
		if resp, _ := request(t, tc.method, url+tc.name, tc.body); resp.StatusCode != tc.status {
			t.Errorf("%s %s: %s, want %d", tc.method, tc.name, resp.Status, tc.status)
		}
	}
	for range storeObjects {
		if err := s.put(rand.Text(), &object{}); err != nil {
			t.Fatal(err)
		}
	}
	if resp, _ := request(t, "PUT", url+"onemore", strings.NewReader("x")); resp.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("PUT into a full store: %s", resp.Status)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

func TestStoreForgetsHalfAnUpload(t *testing.T) {
	s, url, stop := startStore(t)
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", url+"half", r)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 1 << 20
	go func() {
		w.Write(make([]byte, 1<<19))
		w.CloseWithError(io.ErrUnexpectedEOF)
	}()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if resp, err := transport.RoundTrip(req); err == nil {
		resp.Body.Close()
		t.Fatalf("half an upload: %s", resp.Status)
	}
	stop()
	if p := s.Path("half"); p != "" {
		t.Errorf("half an upload is visible at %s", p)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}
