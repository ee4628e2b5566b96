package loopback

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// watched is everything that was seen while secrets were used, by where.
type watched struct {
	secrets canaries
	seen    map[string][]byte
	procs   map[string]*proc.Process
}

func (w *watched) see(where string, text []byte) {
	w.seen[where] = append(append(w.seen[where], text...), '\n')
}

// command runs a command of the binary to its end, and sees what it prints. It may fail.
func (w *watched) command(ctx context.Context, t *testing.T, env []string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%q does not end: %s", args, out)
	}
	w.see("ebbgate "+strings.Join(args, " "), out)
	if err != nil {
		w.see("ebbgate "+strings.Join(args, " "), []byte(err.Error()))
	}
}

// answer says something to an address and sees what comes back.
func (w *watched) answer(ctx context.Context, t *testing.T, where, addr string, say ...string) {
	t.Helper()
	conn, err := dial(ctx, addr)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	for _, s := range say {
		_, _ = io.WriteString(conn, s)
		if len(say) > 1 { // a conversation
			got := make([]byte, 4096)
			n, _ := conn.Read(got)
			w.see(where, got[:n])
			if strings.HasPrefix(string(got[:n]), "HTTP/1.1 4") || strings.HasPrefix(string(got[:n]), "HTTP/1.1 5") {
				return // the conversation is over
			}
		}
	}
	_ = conn.CloseWrite()
	got, _ := io.ReadAll(io.LimitReader(bufio.NewReader(conn), 64<<10))
	w.see(where, got)
}

// grantForm is a JWT, which a grant is.
var grantForm = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}`)

// look looks for the secrets in everything that was seen, and in what the processes printed and were started with.
func (w *watched) look(t *testing.T) (leaks []string) {
	t.Helper()
	for name, p := range w.procs {
		w.see(name+" prints", []byte(p.Output()))
		for _, file := range []string{"cmdline", "environ"} {
			if text, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/" + file); err == nil {
				w.see(name+"'s "+file, text)
			} else if runtime.GOOS == "linux" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for where, text := range w.seen {
		for _, what := range w.secrets.find(text) {
			leaks = append(leaks, where+" shows "+what)
		}
		if grantForm.Match(text) {
			leaks = append(leaks, where+" shows a grant")
		}
	}
	return leaks
}

// plantText plants a key or token, and the secret inside.
func (w *watched) plantText(t *testing.T, what, text string) {
	t.Helper()
	var secret certs.Secret
	if key, err := certs.ParseKey(text); err == nil {
		secret = key.Secret
	} else if token, err := certs.ParseToken(text); err == nil {
		secret = token.Secret
	} else {
		t.Fatalf("%s: %v", what, err)
	}
	w.secrets.add(t, what+"'s secret", secret.Reveal())
	_, body, _ := strings.Cut(text, "_")
	w.secrets.add(t, what, []byte(body[len(body)/2:])) // the first half has the id
}

// plantFile plants what a file with a key holds.
func (w *watched) plantFile(t *testing.T, what, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if strings.Contains(block.Type, "PRIVATE KEY") {
			w.secrets.add(t, what, block.Bytes[len(block.Bytes)-32:]) // Ed25519's seed is the end of PKCS #8
			return
		}
	}
	text := strings.TrimSpace(string(raw))
	w.secrets.add(t, what, []byte(text))
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
		if plain, err := encoding.DecodeString(text); err == nil {
			w.secrets.add(t, what+", decoded", plain)
		}
	}
}

// forged are a key and a token that differ from good ones in their secret.
func forged(t *testing.T, key, token string) (wrongKey, wrongToken string) {
	t.Helper()
	k, err := certs.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	j, err := certs.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	k.Secret, j.Secret = certs.NewSecret(), certs.NewSecret()
	return k.Encode(), j.Encode()
}

// control is no secret: it is planted where everybody may see it, so that a test that sees nothing fails.
const control = "control-c4nary"

// TestSecretsStayInside uses every kind of secret, rightly and wrongly, with all logs on, and looks for them, in every
// form, in all that the programs print, log, answer, serve, are started with and keep.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	w := &watched{secrets: canaries{}, seen: make(map[string][]byte), procs: make(map[string]*proc.Process)}
	program := rig.Program{Path: binary, Flags: []string{"--log-level", "debug"}}
	relay, err := rig.StartRelay(ctx, program, rig.RelayOptions{Dir: t.TempDir(), Config: map[string]any{
		"metrics": "127.0.0.1:0", "ingress": map[string]any{"connect": "127.0.0.1:0", "socks5": "127.0.0.1:0"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, relay.Process, true)
	w.procs["relay"] = relay.Process
	keys, err := relay.CreateGateway(ctx, corp)
	if err != nil {
		t.Fatal(err)
	}
	token, err := relay.CreateJob(ctx, control, corp+"/"+store, corp+"/echo")
	if err != nil {
		t.Fatal(err)
	}
	w.plantText(t, "key1", keys.Key1)
	w.plantText(t, "key2", keys.Key2)
	w.plantText(t, "token", token)
	w.plantFile(t, "state key", filepath.Join(relay.Dir, "state", "state.key"))
	wrongKey, wrongToken := forged(t, keys.Key1, token)
	w.plantText(t, "a key that is none", wrongKey)
	w.plantText(t, "a token that is none", wrongToken)

	password, wrongPassword := "c4n%ry "+rand.Text()+"/?&+", "wr0ng-"+rand.Text()
	w.secrets.add(t, "proxy password", []byte(password))
	w.secrets.add(t, "wrong proxy password", []byte(wrongPassword))
	proxy := &basicProxy{}
	proxy.password.Store(&password)
	echo := echoes(t)
	connector, err := rig.StartConnector(ctx, program, rig.ConnectorOptions{
		Dir: t.TempDir(), Relay: relay.Address, Key: keys.Key1, Name: node,
		Proxy:  rig.Proxy{URL: "http://" + proxyAt(t, proxy.serve), Username: proxyUser, Password: password},
		Stores: []rig.Store{rig.Loopback(store, rig.FreePort(t)), rig.Loopback("echo", echo)},
	})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, connector.Process, false)
	w.procs["connector"] = connector.Process
	state := filepath.Join(connector.Options.Dir, "state")
	w.plantFile(t, "node's private key", filepath.Join(state, certs.IdentityFile))
	if _, err := relay.Await(ctx, corp, node, rig.Online); err != nil {
		t.Fatal(err)
	}
	forward, err := rig.StartForward(ctx, program, rig.ForwardOptions{Dir: t.TempDir(), Relay: relay.Address, Token: token, Target: corp + "/echo"})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, forward.Process, false)
	w.procs["forward"] = forward.Process

	w.ingresses(ctx, t, relay, relay.Socks5, token, wrongToken)
	w.answer(ctx, t, "forward", forward.Addr, "hello")
	w.commands(ctx, t, relay, connector, wrongKey, wrongToken)
	w.child(ctx, t, relay, token)
	w.answer(ctx, t, "metrics", relay.Metrics, "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
	w.answer(ctx, t, "the TLS port, in plain", relay.TLS, "GET / HTTP/1.1\r\nHost: relay\r\nProxy-Authorization: Bearer "+token+"\r\nAuthorization: Bearer "+wrongToken+"\r\nConnection: close\r\n\r\n")
	w.reloads(ctx, t, connector, wrongPassword)

	for where, want := range map[string]string{
		"metrics": "ebbgate_", "CONNECT, works": "200 ", "CONNECT, store is shut": "store-refused", "CONNECT, wrong token": "token-invalid", "SOCKS, works": "hello",
	} {
		if !strings.Contains(string(w.seen[where]), want) {
			t.Errorf("%s: %q, want %s", where, w.seen[where], want)
		}
	}
	for _, leak := range w.look(t) {
		t.Error(leak)
	}
	for name, p := range w.procs {
		if !strings.Contains(p.Output(), `"level":"DEBUG"`) {
			t.Errorf("%s logs nothing", name)
		}
	}
	w.rest(t, relay.Dir, "state.key")
	w.rest(t, connector.Options.Dir, "proxy-password", certs.IdentityFile)
	// What is everybody's is seen in the same places, or this test sees nothing.
	seen := canaries{}
	seen.add(t, "control", []byte(control))
	for _, where := range []string{"CONNECT, store not allowed", "relay prints", "connector prints", "ebbgate job list"} {
		found := false
		for place, text := range w.seen {
			found = found || strings.HasPrefix(place, where) && len(seen.find(text)) > 0
		}
		if !found {
			t.Errorf("the control is not seen in %q", where)
		}
	}
}

// rest looks for secrets in the files of a directory but those that are there to hold one.
func (w *watched) rest(t *testing.T, dir string, holders ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		for _, holder := range holders {
			if filepath.Base(path) == holder {
				return nil
			}
		}
		body, err := os.ReadFile(path)
		for _, what := range w.secrets.find(body) {
			t.Errorf("%s holds %s", path, what)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// ingresses dials by CONNECT and SOCKS, rightly and wrongly.
func (w *watched) ingresses(ctx context.Context, t *testing.T, relay *rig.Relay, socks, token, wrong string) {
	t.Helper()
	basic := func(user, password string) string {
		return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n"
	}
	for name, c := range map[string]struct{ host, header string }{
		"works":             {"echo." + corp, basic(control, token)},
		"store is shut":     {store + "." + corp, basic(control, token)},
		"store not allowed": {"other." + corp, basic(control, token)},
		"wrong token":       {"echo." + corp, basic(control, wrong)},
		"bearer":            {"other." + corp, "Proxy-Authorization: Bearer " + token + "\r\n"},
		"wrong bearer":      {"echo." + corp, "Proxy-Authorization: Bearer " + wrong + "\r\n"},
		"cut token":         {"echo." + corp, basic(control, token[:len(token)-8])},
		"another's name":    {"echo." + corp, basic("nobody", token)},
		"the token as user": {"echo." + corp, basic(token, "")},
		"no base64":         {"echo." + corp, "Proxy-Authorization: Basic " + token + "\r\n"},
		"no scheme":         {"echo." + corp, "Proxy-Authorization: " + token + "\r\n"},
	} {
		w.answer(ctx, t, "CONNECT, "+name, relay.Connect, "CONNECT "+c.host+":0 HTTP/1.1\r\nHost: "+c.host+"\r\n"+c.header+"\r\n", "hello")
	}
	for name, c := range map[string]struct{ user, password, host string }{
		"works":       {control, token, "echo." + corp},
		"shut":        {control, token, store + "." + corp},
		"not allowed": {control, token, "other." + corp},
		"wrong token": {control, wrong, "echo." + corp},
	} {
		w.answer(ctx, t, "SOCKS, "+name, socks, "\x05\x01\x02",
			"\x01"+string(rune(len(c.user)))+c.user+string([]byte{byte(len(c.password))})+c.password,
			"\x05\x01\x00\x03"+string(rune(len(c.host)))+c.host+"\x00\x00", "hello")
	}
}

// commands runs commands that know secrets, and commands that were given them in the wrong place.
func (w *watched) commands(ctx context.Context, t *testing.T, relay *rig.Relay, connector *rig.Connector, key, token string) {
	t.Helper()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	admin := []string{"--config", relay.Config}
	for _, args := range [][]string{
		{"job", "list"},
		{"gateway", "list"},
		{"node", "list", corp},
		{"store", "test", corp + "/echo"},
		{"store", "test", corp + "/" + store},
		{"job", "revoke", "absent"},
		{"gateway", "create", corp},
	} {
		for _, json := range [][]string{nil, {"--json"}} {
			w.command(ctx, t, nil, append(append(args, admin...), json...)...)
		}
	}
	w.command(ctx, t, nil, "connector", "status", "--config", connector.Config)
	w.command(ctx, t, nil, "connector", "status", "--config", connector.Config, "--json")
	keyFile, tokenFile, twoLines := file("key", key+"\n"), file("token", token+"\n"), file("two-lines", key+"\n"+token+"\n")
	node := []string{"--relay", relay.Address, "--name", "other", "--state-dir", filepath.Join(dir, "state"), "--proxy-mode", "none", "--log-level", "debug"}
	for _, k := range []string{keyFile, tokenFile, twoLines, file("half", key[:len(key)/2]), key} {
		w.command(ctx, t, nil, append([]string{"connector", "register", "--key-file", k}, node...)...)
	}
	for _, k := range []string{tokenFile, keyFile, twoLines, token} {
		w.command(ctx, t, nil, "forward", corp+"/echo", "--listen", "127.0.0.1:0", "--relay", relay.Address, "--token-file", k, "--log-level", "debug")
	}
	for _, help := range [][]string{{}, {"relay", "run"}, {"connector", "register"}, {"connector", "run"}, {"forward"}, {"job", "create"}} {
		w.command(ctx, t, []string{"EBBGATE_JOB_TOKEN_FILE=" + tokenFile, "EBBGATE_JOB_TOKEN=" + token}, append(help, "--help")...)
	}
	// Where only a path or a name belongs.
	for _, env := range []string{"EBBGATE_CONNECTOR_PROXY_URL=http://svc:" + key + "@127.0.0.1:1", "EBBGATE_CONNECTOR_PROXY_PASSWORD=" + key, "HTTPS_PROXY=ftp://svc:" + key + "@127.0.0.1:1"} {
		w.command(ctx, t, []string{env}, "connector", "register", "--key-file", keyFile, "--relay", relay.Address, "--name", "other", "--state-dir", filepath.Join(dir, "state"), "--log-level", "debug")
	}
}

// child has exec run a command that finds the password of its proxies in its environment, where alone it may be.
func (w *watched) child(ctx context.Context, t *testing.T, relay *rig.Relay, token string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return // the script is Linux's
	}
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const script = `printenv HTTPS_PROXY ALL_PROXY > proxies && cat /proc/$PPID/cmdline /proc/$PPID/environ > started`
	env := []string{"EBBGATE_JOB_TOKEN_FILE=" + tokenFile}
	w.command(ctx, t, env, "exec", "--store", corp+"/echo", "--relay", relay.Address, "--log-level", "debug", "--summary", filepath.Join(dir, "summary"),
		"--", "sh", "-c", "cd "+dir+" && "+script)
	for name, where := range map[string]string{"started": "exec's cmdline and environ", "summary": "exec's summary"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", where, err)
		}
		w.see(where, text)
	}
	proxies, err := os.ReadFile(filepath.Join(dir, "proxies"))
	if err != nil {
		t.Fatalf("%v: %s", err, w.seen)
	}
	for _, line := range strings.Fields(string(proxies)) {
		u, err := url.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		password, ok := u.User.Password()
		if !ok {
			t.Errorf("%s has no password", u.Host)
			continue
		}
		w.secrets.add(t, "password of exec's "+u.Scheme+" proxy", []byte(password))
	}
}

// reloads changes the running connector's configuration, for the better and the worse, and its proxy's password.
func (w *watched) reloads(ctx context.Context, t *testing.T, c *rig.Connector, wrong string) {
	t.Helper()
	good, err := os.ReadFile(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(c.Options.Dir, "state")
	for _, bad := range []string{
		strings.Replace(string(good), `"password_file"`, `"password": "`+wrong+`", "password_file"`, 1),
		strings.Replace(string(good), `"url": "http://`, `"url": "http://svc:`+wrong+`@`, 1),
	} {
		if bad == string(good) {
			t.Error("the configuration is not changed")
		}
		if err := os.WriteFile(c.Config, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		w.command(ctx, t, nil, "connector", "reload", "--state-dir", state)
		w.command(ctx, t, nil, "connector", "reload", "--state-dir", state, "--json")
		w.command(ctx, t, nil, "connector", "status", "--state-dir", state)
	}
	// The wrong password, and another way: the new way is tried and refused.
	c.Options.Proxy.Password = wrong
	c.Options.Proxy.Auth = []string{"basic"}
	c.Options.Stores = append(c.Options.Stores, rig.Loopback(control, rig.FreePort(t)))
	if err := c.Configure(); err != nil {
		t.Fatal(err)
	}
	w.command(ctx, t, nil, "connector", "reload", "--state-dir", state)
	if err := c.AwaitRefused(ctx); err != nil {
		t.Error(err)
	}
	w.command(ctx, t, nil, "connector", "status", "--state-dir", state)
}

// echoes is a store that sends back what it gets.
func echoes(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// TestALeakIsSeen has secrets where they should not be: each must be reported.
func TestALeakIsSeen(t *testing.T) {
	w := &watched{secrets: canaries{}, seen: make(map[string][]byte)}
	token := certs.Token{JobID: strings.Repeat("ab", 16), Secret: certs.NewSecret()}.Encode()
	w.plantText(t, "token", token)
	parsed, err := certs.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{
		"log":    fmt.Sprintf(`{"level":"DEBUG","token":%q}`, token),
		"header": "Basic " + base64.StdEncoding.EncodeToString([]byte("nightly:"+token)),
		"bytes":  fmt.Sprint("secret=", fmt.Sprintf("%x", parsed.Secret.Reveal())),
		"json":   base64.StdEncoding.EncodeToString(parsed.Secret.Reveal()),
		"grant":  "grant eyJhbGciOiJFZERTQSJ9.eyJhdWQiOiJub2RlIn0.c2lnbmF0dXJl",
	} {
		w.seen = map[string][]byte{}
		w.see(where, []byte(text))
		if leaks := w.look(t); len(leaks) == 0 {
			t.Errorf("%s: %s is not seen", where, text)
		}
	}
	w.seen = map[string][]byte{}
	w.see("log", bytes.Repeat([]byte(`{"level":"INFO","msg":"session","job":"nightly"}`), 10))
	if leaks := w.look(t); len(leaks) > 0 {
		t.Error(leaks)
	}
}
