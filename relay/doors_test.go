package relay

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
)

// clientCA makes an authority for jobs' certificates, and one of them.
func clientCA(t *testing.T, file string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestSecureDoors(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	mine, others := clientCA(t, ca), clientCA(t, ca+".other")
	nowhere := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	here := append(nowhere, netip.MustParsePrefix("127.0.0.0/8"))
	r := startRelayWith(t, 0, func(c *Config) {
		c.File.Ingress.Connect.TLS, c.File.Ingress.Socks5.TLS = true, true
		c.File.Ingress.Connect.AllowFrom = here
		port := c.File.Ingress.Ports[0]
		port.AllowFrom = nowhere
		c.File.Ingress.Ports = append(c.File.Ingress.Ports, port)
		c.File.Ingress.Ports[0].TLS, c.File.Ingress.Ports[0].ClientCA = true, ca
	})
	token := r.serve(tunnel.TLS)
	dial := func(address string, certificates ...tls.Certificate) *tls.Conn {
		t.Helper()
		raw, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { raw.Close() })
		return tls.Client(honestTCP{raw}, &tls.Config{InsecureSkipVerify: true, Certificates: certificates})
	}
	echo := func(conn io.ReadWriter, in io.Reader) error {
		const text = "there and back"
		_, _ = io.WriteString(conn, text)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		got, err := io.ReadAll(in)
		if err == nil && string(got) != text {
			err = fmt.Errorf("%q came back", got)
		}
		return err
	}

	conn := dial(r.ready.Connect)
	fmt.Fprintf(conn, "CONNECT echo.corp:0 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n", base64.StdEncoding.EncodeToString([]byte("nightly:"+token)))
	in := bufio.NewReader(conn)
	if answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect}); err != nil || answer.StatusCode != 200 {
		t.Fatal(answer, err)
	}
	if err := echo(conn, in); err != nil {
		t.Errorf("CONNECT: %v", err)
	}

	socks, err := proxy.SOCKS5("tcp", r.ready.Socks5, &proxy.Auth{User: "nightly", Password: token}, dialerFunc(func(string, string) (net.Conn, error) { return dial(r.ready.Socks5), nil }))
	if err != nil {
		t.Fatal(err)
	}
	store, _ := r.relay.registry.gateway("default", "corp")[0].store("echo")
	for _, target := range []string{fmt.Sprintf("echo.corp:%d", store.Port), "ECHO.example.:7777", "[2001:db8:0::7]:7777"} {
		conn, err := socks.Dial("tcp", target)
		if err == nil {
			err = echo(conn, conn)
		}
		if err != nil {
			t.Errorf("SOCKS 5 to %s: %v", target, err)
		}
	}

	for name, certificates := range map[string][]tls.Certificate{"mine": {mine}, "others": {others}, "none": nil} {
		conn := dial(r.ready.Ports[0], certificates...)
		if err := echo(conn, conn); (err == nil) != (name == "mine") {
			t.Errorf("the port with a certificate (%s): %v", name, err)
		}
	}
	until(t, "handshakes without a certificate are counted", func() bool { return r.metric("ebbgate_ingress_requests_total", "handshake-failed") == 2 })

	plain, err := net.Dial("tcp", r.ready.Ports[1])
	if err == nil {
		_, err = plain.Read(make([]byte, 1))
		_ = plain.Close()
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("from where nobody gets in: %v, want a reset", err)
	}
	until(t, "it is counted", func() bool { return r.metric("ebbgate_ingress_requests_total", "address-not-allowed") == 1 })
}

type dialerFunc func(network, address string) (net.Conn, error)

func (f dialerFunc) Dial(network, address string) (net.Conn, error) { return f(network, address) }

func TestDoorWithoutCertificates(t *testing.T) {
	for name, file := range map[string]string{"missing": "no-such-file", "empty": "/dev/null"} {
		dir := t.TempDir()
		r, err := New(Config{File: &config.Relay{
			Hostname: "127.0.0.1", Listen: config.RelayListen{TLS: "127.0.0.1:0"},
			Ingress: config.RelayIngress{Connect: config.RelayDoor{Listen: "127.0.0.1:0", TLS: true, ClientCA: file}},
			State:   config.RelayState{Dir: dir, KeyFile: filepath.Join(dir, "state.key")},
		}, Init: true})
		if err != nil {
			t.Fatal(err)
		}
		err = r.Run(context.Background())
		var failed *tunnel.Error
		if !errors.As(err, &failed) || failed.Code() != "certificate-invalid" || failed.Hop() != "config" || failed.Advice() == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
