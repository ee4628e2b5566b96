package relay

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
)

// liveRelay is a relay whose configuration a test changes.
type liveRelay struct {
	*running
	hangup chan os.Signal

	mu   sync.Mutex
	file config.Relay
	err  error
}

func startLiveRelay(t *testing.T, prepare func(*config.Relay)) *liveRelay {
	t.Helper()
	l := &liveRelay{hangup: make(chan os.Signal)}
	l.running = startRelayWith(t, 0, func(c *Config) {
		prepare(c.File)
		l.file = *c.File
		c.Hangup = l.hangup
		c.Reload = func() (*config.Relay, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			file := l.file
			return &file, l.err
		}
	})
	return l
}

// metric is a counter's or gauge's value, under its one label where it has one.
func (r *running) metric(name, label string) float64 {
	r.t.Helper()
	families, err := r.relay.cfg.Registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// reload changes the configuration and waits until the relay has looked at it.
func (l *liveRelay) reload(result string, change func(*config.Relay) error) {
	l.t.Helper()
	l.mu.Lock()
	l.err = change(&l.file)
	l.mu.Unlock()
	counted := func() float64 { return l.metric("ebbgate_relay_reloads_total", result) }
	before := counted()
	l.hangup <- syscall.SIGHUP
	until(l.t, "the configuration is read: "+result, func() bool { return counted() > before })
}

// open lists the addresses of the ingresses that are open.
func (l *liveRelay) open() (list []string) {
	l.relay.doors.mu.Lock()
	defer l.relay.doors.mu.Unlock()
	for _, o := range l.relay.doors.open {
		list = append(list, o.kind+" "+o.listener.Addr().String())
	}
	return list
}

func TestLiveIngresses(t *testing.T) {
	l := startLiveRelay(t, func(*config.Relay) {})
	token := l.serve(tunnel.TLS)
	conn, in, answer := l.connect("echo.corp:0", "nightly", token)
	if answer.StatusCode != 200 {
		t.Fatal(answer.Status)
	}
	says := func(text string) {
		t.Helper()
		_, _ = io.WriteString(conn, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != text {
			t.Fatalf("the open stream says %q, %v", got, err)
		}
	}
	says("before")
	first := l.open()

	l.reload("unchanged", func(*config.Relay) error { return nil })
	l.reload("refused", func(*config.Relay) error { return errors.New("relay.yaml:3: no") })
	if !slices.Equal(l.open(), first) {
		t.Errorf("a bad configuration changed %v to %v", first, l.open())
	}

	// one address is taken: nothing of the configuration is in force
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	was := l.file.Ingress
	l.reload("refused", func(f *config.Relay) error {
		f.Ingress.Connect = config.RelayDoor{}
		f.Ingress.HTTPS = false
		f.Ingress.Ports = append(slices.Clone(was.Ports), config.RelayPort{RelayDoor: config.RelayDoor{Listen: config.Listen(taken.Addr().String())}, Gateway: "corp", Store: "echo", Job: "nightly"})
		return nil
	})
	if !slices.Equal(l.open(), first) || l.relay.doors.web() == nil {
		t.Errorf("half a configuration changed %v to %v", first, l.open())
	}

	// connect goes, a port comes, socks5 is for nobody here
	l.reload("ok", func(f *config.Relay) error {
		f.Ingress = was
		f.Ingress.Connect, f.Ingress.HTTPS = config.RelayDoor{}, false
		f.Ingress.Socks5.AllowFrom = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		f.Ingress.Ports = []config.RelayPort{
			{RelayDoor: config.RelayDoor{Listen: "localhost:0"}, Gateway: "corp", Store: "echo", Job: "nightly"},
			was.Ports[0],
		}
		f.Ingress.Ports[1].Job = "nobody"
		return nil
	})
	says("after")
	now := l.open()
	if len(now) != 3 || now[0] != first[1] || now[2] != first[2] {
		t.Fatalf("%v became %v", first, now)
	}
	for address, want := range map[string]bool{now[1][5:]: true, l.ready.Ports[0]: false, l.ready.Socks5: false} {
		if got := echoes(address); got != want {
			t.Errorf("%s echoes: %v, want %v", address, got, want)
		}
	}
	if l.relay.doors.web() != nil {
		t.Error("ingress.https is still on")
	}

	// back again, at another place than before
	l.reload("ok", func(f *config.Relay) error { f.Ingress = was; return nil })
	says("at the end")
	if !echoes(l.ready.Ports[0]) {
		t.Error("the port does not stand for the job again")
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
		t.Errorf("the stream ended with %q %v", rest, err)
	}
}

// echoes tells whether what stands behind an address echoes.
func echoes(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "x")
	got, err := bufio.NewReader(conn).ReadByte()
	return err == nil && got == 'x'
}

// writePair writes a certificate of a name and its key.
func writePair(t *testing.T, dir, name string) (serial string) {
	t.Helper()
	ca, err := certs.NewAuthority("test", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.IssuePublic([]string{name}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	write(t, filepath.Join(dir, "tls.crt"), chain)
	write(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.String()
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// The files of the certificate are watched themselves: nobody tells the relay.
func TestLiveCertificate(t *testing.T) {
	dir := t.TempDir()
	first := writePair(t, dir, "127.0.0.1")
	l := startLiveRelay(t, func(f *config.Relay) {
		f.TLS = config.RelayTLS{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
		f.Ingress.Connect.TLS = true
	})
	shown := func(address string) string {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	for _, address := range []string{l.ready.TLS, l.ready.Connect} {
		if got := shown(address); got != first {
			t.Errorf("%s shows %s, want %s", address, got, first)
		}
	}
	second := writePair(t, dir, "127.0.0.1")
	until(t, "the second certificate is shown", func() bool { return shown(l.ready.TLS) == second && shown(l.ready.Connect) == second })
	write(t, filepath.Join(dir, "tls.crt"), []byte("no certificate"))
	until(t, "the broken one is refused", func() bool { return l.metric("ebbgate_relay_config_good", "") == 0 })
	if got := shown(l.ready.TLS); got != second {
		t.Errorf("after a broken one, %s is shown, want %s", got, second)
	}
	third := writePair(t, dir, "127.0.0.1")
	until(t, "the third certificate is shown", func() bool { return shown(l.ready.TLS) == third })
}
