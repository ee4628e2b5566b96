//go:build linux

package corporate

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/lab"
	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
)

// TestWeb copies 1 GiB out of nginx and another into it, with curl through the CONNECT ingress and the NTLM proxy.
func TestWeb(t *testing.T) {
	ctx := need(t, 3*time.Minute)
	const (
		size     = 1 << 30
		download = 21
		upload   = 22
	)
	write(t, filepath.Join(web.Dir, "object"), download, size)
	mine := filepath.Join(t.TempDir(), "mine")
	write(t, mine, upload, size)
	c := configure(ctx, t, domain(lab.NTLM), "tls")
	c.start(ctx, t)
	proxy := []string{
		"-sSf", "--proxytunnel", "-x", "http://" + c.ingress.Addr, "-U", c.ingress.Job + ":" + c.ingress.Token,
	}
	url := fmt.Sprintf("http://files.%s:%d/", c.name, web.Port)

	v := oracle.NewVerifier(download)
	began := time.Now()
	_, err := proc.Run(ctx, proc.Spec{Path: "curl", Args: append(proxy, url+"object"), Stdout: v, Where: network.Cloud})
	if err != nil {
		t.Fatal(err)
	}
	if v.Len() != size {
		t.Errorf("read %d bytes, want %d", v.Len(), int64(size))
	}
	t.Logf("read 1 GiB in %v, %.0f MB/s", time.Since(began).Round(time.Millisecond), size/1e6/time.Since(began).Seconds())

	began = time.Now()
	run1(ctx, t, network.Cloud, nil, "", "curl", append(proxy, "-T", mine, url+"put/copy")...)
	t.Logf("wrote 1 GiB in %v, %.0f MB/s", time.Since(began).Round(time.Millisecond), size/1e6/time.Since(began).Seconds())
	f, err := os.Open(filepath.Join(web.Dir, "put", "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	got := oracle.Drain(f, upload, nil)
	if got.Bytes != size || !got.Complete() {
		t.Errorf("wrote: %v", got)
	}
}

// write writes content into a file that every user may read.
func write(t *testing.T, path string, seed uint64, n int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oracle.NewReader(seed, n).WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
}
