package loopback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// webObject is how large the web store's object is.
const webObject = 3_000_001

// startWebStore starts a store with an object, in each way that HTTP/1 has to say where it ends, whole or broken off.
func startWebStore(t *testing.T) (addr string) {
	t.Helper()
	mux := http.NewServeMux()
	send := func(w io.Writer, n int64) { _, _ = oracle.NewReader(7, n).WriteTo(w) }
	mux.HandleFunc("GET /length", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(webObject))
		send(w, webObject)
	})
	mux.HandleFunc("GET /chunked", func(w http.ResponseWriter, _ *http.Request) { send(w, webObject) })
	mux.HandleFunc("PUT /object", func(w http.ResponseWriter, r *http.Request) {
		v := oracle.NewVerifier(7)
		if _, err := io.Copy(v, r.Body); err != nil || v.Len() != webObject {
			http.Error(w, fmt.Sprint(v.Len(), err), http.StatusBadRequest)
		}
	})
	// The rest is what net/http would not do.
	raw := func(path, head string, whole bool) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, head)
			if whole {
				send(conn, webObject)
			} else {
				send(conn, webObject/2)
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			_ = conn.Close()
		})
	}
	raw("/until-end", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", true)
	raw("/old", "HTTP/1.0 200 OK\r\n\r\n", true)
	raw("/until-end-broken", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false)
	raw("/old-broken", "HTTP/1.0 200 OK\r\n\r\n", false)
	raw("/length-broken", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", webObject), false)
	raw("/chunked-broken", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400000\r\n", false)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// curl runs curl with a configuration, which may hold secrets, and gives its exit code.
func curl(ctx context.Context, t *testing.T, config string, args ...string) (out []byte, code int) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "curl", append([]string{"--silent", "--show-error", "--fail-with-body", "--max-time", "120", "--config", "-"}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}
	cmd.Stdin = strings.NewReader(config)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out, 0
	case errors.As(err, &exit):
		t.Logf("curl %s: %s", strings.Join(args, " "), bytes.TrimSpace(stderr.Bytes()))
		return out, exit.ExitCode()
	}
	t.Fatal(err)
	return nil, 0
}

// TestCurl has curl copy objects through each ingress of the relay in the way that its manual says, by the store's name
// and by its aliases.
func TestCurl(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	web := rig.Loopback("web", startWebStore(t))
	web.Aliases = []string{"files.corp.example:80", "10.99.0.1:8080"}
	c.newConnector(ctx, t, "web", web)
	in := c.newJob(ctx, t, "curl", "web")
	user := "proxy-user = \"curl/run-1:" + in.Token + "\"\n"
	ways := map[string]string{
		"absolute form":            "proxy = \"http://" + c.relay.Connect + "\"\n",
		"CONNECT":                  "proxy = \"http://" + c.relay.Connect + "\"\nproxytunnel\n",
		"absolute form over HTTPS": "proxy = \"https://" + c.relay.TLS + "\"\nproxy-insecure\n",
		"CONNECT over HTTPS":       "proxy = \"https://" + c.relay.TLS + "\"\nproxy-insecure\nproxytunnel\n",
		"SOCKS 5":                  "socks5-hostname = \"" + c.relay.Socks5 + "\"\n",
	}
	if version, _ := exec.CommandContext(ctx, "curl", "--version").Output(); !bytes.Contains(version, []byte("HTTPS-proxy")) {
		t.Log("this curl knows no https:// proxies")
		delete(ways, "absolute form over HTTPS")
		delete(ways, "CONNECT over HTTPS")
	}
	var object bytes.Buffer
	_, _ = oracle.NewReader(7, webObject).WriteTo(&object)
	for way, config := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			config := config + user
			for _, url := range []string{"web.corp:0/length", "web.corp:0/chunked", "web.corp:0/until-end", "web.corp:0/old", "files.corp.example/length", "FILES.corp.example.:80/length", "10.99.0.1:8080/length"} {
				out, code := curl(ctx, t, config, "http://"+url)
				if code != 0 || !bytes.Equal(out, object.Bytes()) {
					t.Errorf("%s: exit %d, %d bytes of %d: %.200q", url, code, len(out), object.Len(), out)
				}
			}
			// three over one connection
			out, code := curl(ctx, t, config, "http://web.corp:0/length", "http://web.corp:0/chunked", "http://web.corp:0/length")
			if code != 0 || len(out) != 3*object.Len() {
				t.Errorf("three objects: exit %d, %d bytes", code, len(out))
			}
			for _, http10 := range []string{"--http1.1", "--http1.0"} {
				for _, url := range []string{"length-broken", "chunked-broken", "until-end-broken", "old-broken"} {
					for range 3 {
						if out, code := curl(ctx, t, config, http10, "http://web.corp:0/"+url); code == 0 {
							t.Errorf("%s %s: exit 0 after %d bytes of an object that the store broke off", http10, url, len(out))
						}
					}
				}
			}
			file := t.TempDir() + "/object"
			if err := os.WriteFile(file, object.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, framing := range []string{"Content-Type: x", "Transfer-Encoding: chunked"} {
				if out, code := curl(ctx, t, config, "--header", framing, "--upload-file", file, "http://web.corp:0/object"); code != 0 {
					t.Errorf("upload with %s: exit %d: %s", framing, code, out)
				}
			}
			if out, code := curl(ctx, t, config, "http://web.corp:1/length"); code == 0 {
				t.Errorf("a port that is not the store's: exit 0, %q", out)
			}
			if out, code := curl(ctx, t, strings.Replace(config, in.Token, in.Token[1:], 1), "http://web.corp:0/length"); code == 0 {
				t.Errorf("a wrong token: exit 0, %q", out)
			}
		})
	}
}
