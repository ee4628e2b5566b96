package demo

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBar(t *testing.T) {
	for _, tc := range []struct {
		n, total int64
		want     string
	}{
		{0, 200 << 20, "read   [..............................]   0 %  0 bytes of 200.0 MiB  0.0 MB/s "},
		{100 << 20, 200 << 20, "read   [###############...............]  50 %  100.0 MiB of 200.0 MiB  52.4 MB/s "},
		{200 << 20, 200 << 20, "read   [##############################] 100 %  200.0 MiB of 200.0 MiB  104.9 MB/s "},
		{0, 0, "read   [##############################] 100 %  0 bytes of 0 bytes  0.0 MB/s "},
	} {
		if got := drawBar("read", tc.n, tc.total, 2*time.Second); got != tc.want {
			t.Errorf("%d of %d:\n%q, want\n%q", tc.n, tc.total, got, tc.want)
		}
	}
}

func TestScreen(t *testing.T) {
	show := func(opt Options) {
		s := newScreen(opt)
		progress, finish := s.bar("write", 1<<30)
		progress(1 << 20)
		finish(Copy{Bytes: 1 << 30, Seconds: 2})
		s.table([]hop{{"job -> store", "the whole path", 1500 * time.Microsecond}, {"a", "b", 0}})
		s.digests("read", Copy{SHA256Source: "aa", SHA256Copy: "aa"})
		s.digests("write", Copy{SHA256Source: "aa", SHA256Copy: "bb"})
	}
	var out bytes.Buffer
	show(Options{Stdout: &out})
	const want = `write  1024.0 MiB in 2.00 s, 536.9 MB/s

hop           how             round trip
job -> store  the whole path  1.50 ms
a             b               -
read   source sha256 aa
       copy   sha256 aa  equal
write  source sha256 aa
       copy   sha256 bb  DIFFERENT
`
	if out.String() != want {
		t.Errorf("printed\n%s, want\n%s", out.String(), want)
	}
	out.Reset()
	show(Options{Stdout: &out, JSON: true})
	if out.Len() != 0 {
		t.Errorf("beside the JSON: %q", out.String())
	}
}

func TestVerdict(t *testing.T) {
	same, other := Copy{Bytes: 10, SHA256Source: "a", SHA256Copy: "a"}, Copy{Bytes: 10, SHA256Source: "a", SHA256Copy: "b"}
	passed := ProxyStats{Sent: 10, Received: 10}
	for _, tc := range []struct {
		name   string
		result Result
		passed ProxyStats
		want   string
	}{
		{"good", Result{Carrier: "tls", ProxyAuth: "ntlm", Read: same, Write: same}, passed, ""},
		{"read", Result{Carrier: "tls", ProxyAuth: "ntlm", Read: other, Write: same}, passed, "out of the store differs"},
		{"write", Result{Carrier: "tls", ProxyAuth: "ntlm", Read: same, Write: other}, passed, "into the store differs"},
		{"nothing copied", Result{Carrier: "tls", ProxyAuth: "ntlm"}, passed, "differs"},
		{"no proof", Result{Carrier: "tls", Read: same, Write: same}, passed, "did not authenticate"},
		{"around the proxy, out", Result{Carrier: "tls", ProxyAuth: "ntlm", Read: same, Write: same}, ProxyStats{Sent: 9, Received: 10}, "went through the proxy"},
		{"around the proxy, in", Result{Carrier: "tls", ProxyAuth: "ntlm", Read: same, Write: same}, ProxyStats{Sent: 10, Received: 9}, "went through the proxy"},
		{"no carrier", Result{ProxyAuth: "ntlm", Read: same, Write: same}, passed, "carrier"},
	} {
		err := (&path{result: tc.result, passed: tc.passed}).verdict()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestMakeFile(t *testing.T) {
	const size = 3<<20 + 5
	dir := t.TempDir()
	var sums [2][32]byte
	for i, name := range []string{"a", "b"} {
		if err := makeFile(t.Context(), filepath.Join(dir, name), size); err != nil {
			t.Fatal(err)
		}
		sum, n, err := hashFile(filepath.Join(dir, name))
		if err != nil || n != size {
			t.Fatalf("%d bytes, %v", n, err)
		}
		sums[i] = sum
	}
	if sums[0] == sums[1] {
		t.Error("two files are the same")
	}
}

func TestRunRefusesWhatIsNoFile(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, file := range []string{t.TempDir(), filepath.Join(t.TempDir(), "absent")} {
		if err := Run(t.Context(), Options{File: file, Program: os.Args[0]}); err == nil || !strings.Contains(err.Error(), "--file") {
			t.Errorf("%s: %v", file, err)
		}
	}
}
