package proxycfg

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testAccount(proxy, user, password string, schemes ...Scheme) account {
	return account{proxy, schemes, &credential{user: user, password: newSecret(password)}}
}

func mustRecall(t *testing.T, m *memory, a account) *refusal {
	t.Helper()
	r, err := m.recall(a)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMemory(t *testing.T) {
	dir := t.TempDir()
	m := newMemory(dir)
	a := testAccount("proxy:80", "u", "canary", SchemeNTLM)
	if mustRecall(t, m, a) != nil {
		t.Error("remembers without a record")
	}
	check(t, m.forget(a))
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("forgetting nothing wrote %v", list)
	}
	want := refusal{SchemeNTLM, "HTTP/1.1 407 x", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	check(t, m.remember(a, want))
	if diff := cmp.Diff(&want, mustRecall(t, newMemory(dir), a)); diff != "" {
		t.Error(diff)
	}
	for name, other := range map[string]account{
		"proxy":    testAccount("proxy:81", "u", "canary", SchemeNTLM),
		"user":     testAccount("proxy:80", "v", "canary", SchemeNTLM),
		"password": testAccount("proxy:80", "u", "canarx", SchemeNTLM),
		"schemes":  testAccount("proxy:80", "u", "canary", SchemeNTLM, SchemeBasic),
		"limits":   testAccount("proxy:80", "uc", "anary", SchemeNTLM),
	} {
		if mustRecall(t, m, other) != nil {
			t.Errorf("another %s is taken for the same", name)
		}
	}

	list, err := os.ReadDir(dir)
	check(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		check(t, err)
		if strings.Contains(string(text), "canary") {
			t.Errorf("%s holds the password", e.Name())
		}
		if info, _ := e.Info(); info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if diff := cmp.Diff([]string{memoryFile, memoryKeyFile}, names); diff != "" {
		t.Error(diff)
	}

	// An account has one record, the last.
	later := testAccount("proxy:80", "u", "later", SchemeNTLM)
	check(t, m.remember(later, want))
	if mustRecall(t, m, a) != nil || mustRecall(t, m, later) == nil {
		t.Error("not the last refusal")
	}
	check(t, m.forget(a))
	if mustRecall(t, m, later) != nil {
		t.Error("not forgotten")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory(t.TempDir())
	of := func(i int) account { return testAccount("proxy:80", fmt.Sprint("u", i), "p") }
	for i := range maxRefusals + 5 {
		check(t, m.remember(of(i), refusal{Line: strings.Repeat("x", maxQuoted)}))
	}
	for i := range maxRefusals + 5 {
		if got := mustRecall(t, m, of(i)) != nil; got != (i >= 5) {
			t.Errorf("record %d: %v", i, got)
		}
	}
}

// Damage is told, and a new record replaces it. Each byte of the file is cut off
// or flipped once.
func TestMemoryDamaged(t *testing.T) {
	a := testAccount("proxy:80", "u", "p", SchemeNTLM)
	want := refusal{Scheme: SchemeNTLM, Line: "HTTP/1.1 407 x", Time: time.Unix(1, 0).UTC()}
	dir := t.TempDir()
	m := newMemory(dir)
	check(t, m.remember(a, want))
	whole, err := os.ReadFile(m.path())
	check(t, err)
	try := func(text []byte) {
		check(t, os.WriteFile(m.path(), text, 0o600))
		_, _ = m.recall(a) // must not panic
		check(t, m.remember(a, want))
		if mustRecall(t, m, a) == nil {
			t.Errorf("not remembered over %q", text)
		}
	}
	for i := range len(whole) - 3 { // "}" and two line ends
		check(t, os.WriteFile(m.path(), whole[:i], 0o600))
		if _, err := m.recall(a); err == nil {
			t.Errorf("%d of %d bytes are taken for whole", i, len(whole))
		}
	}
	for i := range whole {
		flipped := append([]byte(nil), whole...)
		flipped[i] ^= 0x20
		try(flipped)
	}
	try(make([]byte, maxMemoryFile+1))
	check(t, os.WriteFile(filepath.Join(dir, memoryKeyFile), []byte("short"), 0o600))
	if _, err := m.recall(a); err == nil {
		t.Error("a damaged key is taken for whole")
	}
	try(whole)
}

func TestMemoryUnwritable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	m := newMemory(dir)
	a := testAccount("proxy:80", "u", "p")
	if m.remember(a, refusal{}) == nil {
		t.Error("remembered nowhere")
	}
	if mustRecall(t, m, a) != nil {
		t.Error("recalled from nowhere")
	}
	// A file that cannot be renamed over leaves nothing behind.
	check(t, os.MkdirAll(filepath.Join(dir, memoryFile, "x"), 0o700))
	if m.remember(a, refusal{}) == nil {
		t.Error("a folder was replaced")
	}
	list, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range list {
		if strings.HasSuffix(e.Name(), ".tmp") {
			t.Errorf("%s is left", e.Name())
		}
	}
}
