package loopback

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestDemo runs the demo as its README says, with a file of its own.
func TestDemo(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	tmp, file := t.TempDir(), filepath.Join(t.TempDir(), "object")
	const size, seed = 20<<20 + 7, 11
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oracle.NewReader(seed, size).WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	type copied struct {
		Bytes   int64   `json:"bytes"`
		Seconds float64 `json:"seconds"`
		Source  string  `json:"sha256_source"`
		Copy    string  `json:"sha256_copy"`
	}
	var result struct {
		OK        bool   `json:"ok"`
		Carrier   string `json:"carrier"`
		ProxyAuth string `json:"proxy_auth"`
		Read      copied `json:"read"`
		Write     copied `json:"write"`
	}
	p := rig.Program{Path: binary, Env: []string{"TMPDIR=" + tmp}}
	if err := p.Run(ctx, &result, "demo", "--file", file); err != nil {
		t.Fatal(err)
	}
	if !result.OK || result.Carrier != "tls" || result.ProxyAuth != "ntlm" {
		t.Errorf("%+v", result)
	}
	want := oracle.Digest(seed, size)
	for name, c := range map[string]copied{"read": result.Read, "write": result.Write} {
		if c.Bytes != size || c.Source != want || c.Copy != want || c.Seconds <= 0 {
			t.Errorf("%s: %+v, want %d bytes with digest %s", name, c, size, want)
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// For people it shows the hops.
	out, err := proc.Run(ctx, proc.Spec{Path: binary, Args: []string{"demo", "--file", file}})
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"proxy", "connector", "relay", "store", "tls", "ntlm", want[:16]} {
		if !strings.Contains(strings.ToLower(string(out)), word) {
			t.Errorf("%q is not shown in:\n%s", word, out)
		}
	}
	err = p.Run(ctx, nil, "demo", "--file", filepath.Join(tmp, "absent"))
	wantFailure(t, err, "demo-option", "config", "absent")
}
