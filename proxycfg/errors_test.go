package proxycfg

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const demands = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"

func ntlmAnswer(challenge []byte, header string) string {
	return "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: NTLM " +
		base64.StdEncoding.EncodeToString(challenge) + "\r\n" + header + "\r\n"
}

// What proxies, and what is taken for one, answer.
func TestAnswers(t *testing.T) {
	challenge := ntlmChallengeMessage()
	for _, tc := range []struct {
		name    string
		answers []string
		code    string
		says    string // in the message
		advises string // in the advice
	}{
		{"403", []string{"HTTP/1.1 403 Forbidden\r\nX-Squid-Error: ERR_ACCESS_DENIED 0\r\nContent-Length: 0\r\n\r\n"}, CodeProxyForbidden, `"HTTP/1.1 403 Forbidden" to CONNECT relay.example.com:443 ("ERR_ACCESS_DENIED 0")`, "allow CONNECT to relay.example.com:443"},
		{"502", []string{"HTTP/1.1 502 Bad Gateway\r\n\r\n"}, CodeProxyBadGateway, "502 Bad Gateway", "could not connect"},
		{"503", []string{"HTTP/1.0 503 Service Unavailable\r\n\r\n"}, CodeProxyUnavailable, "503", "resolves"},
		{"504", []string{"HTTP/1.1 504\r\n\r\n"}, CodeProxyGatewayTime, "HTTP/1.1 504", "firewall"},
		{"500", []string{"HTTP/1.1 500 Internal Server Error\r\nX-Squid-Error: ERR_CANNOT_FORWARD 0\r\n\r\n"}, CodeProxyStatus, "ERR_CANNOT_FORWARD", "resolves there"},
		{"405", []string{"HTTP/1.1 405 Method Not Allowed\r\n\r\n"}, CodeProxyStatus, "405", "web server"},
		{"429", []string{"HTTP/1.1 429 Too Many Requests\r\n\r\n"}, CodeProxyStatus, "429", "network team"},
		{"101", []string{"HTTP/1.1 101 Switching Protocols\r\n\r\n"}, CodeProxyStatus, "101", ""},
		{"redirect", []string{"HTTP/1.1 302 Found\r\nLocation: http://login.corp/?x=1\r\n\r\n"}, CodeProxyPage, `to "http://login.corp/?x=1"`, "log in"},
		{"page", []string{"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 13\r\n\r\n<html></html>"}, CodeProxyPage, "web page", "portal"},
		{"page without a length", []string{"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html></html><end>"}, CodeProxyPage, "web page", "portal"},
		{"chunked page", []string{"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n<html></html>\r\n0\r\n\r\n"}, CodeProxyPage, "web page", "portal"},
		{"HTML without HTTP", []string{"<html><body>no"}, CodeProxyNotHTTP, `"<html><body>no"`, "another service"},
		{"ssh", []string{"SSH-2.0-OpenSSH_9.2\r\n"}, CodeProxyNotHTTP, "SSH-2.0-OpenSSH_9.2", "another service"},
		{"TLS", []string{"\x15\x03\x01\x00\x02\x02\x16"}, CodeProxyNotHTTP, `\x15\x03`, "plain HTTP port"},
		{"one odd byte, then silence", []string{"\x05"}, CodeProxyNotHTTP, `\x05`, ""},
		{"HTTP, but not quite", []string{"HTTP/1.1 abc\r\n\r\n"}, CodeProxyNotHTTP, "HTTP/1.1 abc", ""},
		{"broken header", []string{"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"}, CodeProxyNotHTTP, "HTTP/1.1 200 OK", ""},
		{"end at once", []string{"<end>"}, CodeProxyClosed, "without an answer", ""},
		{"end in the header", []string{"HTTP/1.1 200 OK\r\nFoo: b<end>"}, CodeProxyClosed, "without an answer", ""},
		{"huge header", []string{"HTTP/1.1 200 OK\r\nFoo: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n"}, CodeProxyHeader, "64 KiB", ""},
		{"endless 1xx", []string{strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 50)}, CodeProxyNotHTTP, "1xx", ""},
		{"long reason", []string{"HTTP/1.1 403 " + strings.Repeat("a\x1b", 1000) + "\r\n\r\n"}, CodeProxyForbidden, `a\x1ba`, ""},
		{"no scheme", []string{"HTTP/1.1 407 Auth\r\nContent-Length: 0\r\n\r\n"}, CodeAuthUnsupported, "no scheme at all", ""},
		{"other schemes", []string{"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: Digest realm=\"a, NTLM b\"\r\nContent-Length: 0\r\n\r\n"}, CodeAuthUnsupported, "offers Negotiate, Digest; configured: ntlm, basic", "one of: ntlm, basic"},
		{"no challenge", []string{demands, demands}, CodeNTLMBroken, "sends no challenge", ""},
		{"challenge is not base64", []string{demands, "HTTP/1.1 407 A\r\nProxy-Authenticate: NTLM a_b~\r\nContent-Length: 0\r\n\r\n"}, CodeNTLMBroken, "base64", ""},
		{"challenge is short", []string{demands, ntlmAnswer(challenge[:20], "Content-Length: 0\r\n")}, CodeNTLMBroken, "EOF", ""},
		{"challenge is the first message", []string{demands, ntlmAnswer([]byte("NTLMSSP\x00\x01\x00\x00\x00"), "Content-Length: 0\r\n")}, CodeNTLMBroken, "second message", ""},
		{"challenge is huge", []string{demands, ntlmAnswer(append(challenge, make([]byte, 20<<10)...), "Content-Length: 0\r\n")}, CodeNTLMBroken, "too large", ""},
		{"closes in the handshake", []string{demands, ntlmAnswer(challenge, "Connection: close\r\nContent-Length: 0\r\n")}, CodeNTLMBroken, "closes", "load balancer"},
		{"closes in the handshake, HTTP/1.0", []string{demands, strings.Replace(ntlmAnswer(challenge, "Content-Length: 0\r\n"), "1.1", "1.0", 1)}, CodeNTLMBroken, "closes", ""},
		{"endless 407", []string{demands, ntlmAnswer(challenge, "\r\n")}, CodeNTLMBroken, "closes", ""},
		{"oversized 407", []string{demands, ntlmAnswer(challenge, "Content-Length: 99999999\r\n") + strings.Repeat("x", maxDrain+2)}, CodeNTLMBroken, "does not end", ""},
		{"end within 407", []string{demands, ntlmAnswer(challenge, "Content-Length: 100\r\n") + "x<end>"}, CodeProxyClosed, "", ""},
		{"other status to NTLM", []string{demands, "HTTP/1.1 502 Bad Gateway\r\n\r\n"}, CodeProxyBadGateway, "502", ""},
		{"end after the handshake", []string{demands, ntlmAnswer(challenge, "Content-Length: 0\r\n"), "<end>"}, CodeProxyClosed, "without an answer", ""},
		{"status after the handshake", []string{demands, ntlmAnswer(challenge, "Content-Length: 0\r\n"), "HTTP/1.1 403 Forbidden\r\n\r\n"}, CodeProxyForbidden, "403", ""},
		{"refused", []string{demands, ntlmAnswer(challenge, "Content-Length: 0\r\n"), demands}, CodeCredentialRefused, `CORP\svc (ntlm): it answered "HTTP/1.1 407 Proxy Authentication Required"`, "locked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: script(t, tc.answers...), Username: `CORP\svc`,
				PasswordFile: passwordFile(t, "canary"),
			})
			_, err := dial(t, p)
			e := wantCode(t, err, tc.code)
			if !strings.Contains(e.Error(), tc.says) {
				t.Errorf("message lacks %q: %s", tc.says, e)
			}
			if !strings.Contains(e.Advice(), tc.advises) {
				t.Errorf("advice lacks %q: %s", tc.advises, e.Advice())
			}
			if strings.Contains(e.Error()+e.Advice(), "canary") {
				t.Errorf("password in %s", e)
			}
			if len(e.Error()) > 700 || strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' }) {
				t.Errorf("message is not fit to print: %q", e.Error())
			}
			if e.Hop() != "proxy" && e.Hop() != "proxy-auth" {
				t.Errorf("hop %q", e.Hop())
			}
		})
	}
}

// Answers that are odd and good.
func TestGoodAnswers(t *testing.T) {
	challenge := ntlmChallengeMessage()
	for _, tc := range []struct {
		name    string
		answers []string
	}{
		{"HTTP/1.0", []string{"HTTP/1.0 200 Connection established\r\n\r\n"}},
		{"no reason", []string{"HTTP/1.1 200\r\n\r\n"}},
		{"201", []string{"HTTP/1.1 201 Made\r\n\r\n"}},
		{"bare line feeds", []string{"HTTP/1.1 200 OK\n\n"}},
		{"1xx before", []string{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"}},
		{"length zero", []string{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}},
		{"type without a body", []string{"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"}},
		{"chunked, RFC 9110 says ignore", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"}},
		{"NTLM needs no third message", []string{demands, "HTTP/1.1 200 OK\r\n\r\n"}},
		{"NTLM over HTTP/1.0", []string{
			strings.Replace(demands, "1.1", "1.0", 1),
			strings.Replace(ntlmAnswer(challenge, "Proxy-Connection: keep-alive\r\nContent-Length: 3\r\n")+"abc", "1.1", "1.0", 1),
			"HTTP/1.0 200 OK\r\n\r\n",
		}},
		{"1xx within NTLM", []string{demands, "HTTP/1.1 102 Processing\r\n\r\n" + ntlmAnswer(challenge, "Content-Length: 0\r\n"), "HTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"}},
		{"challenge without padding", []string{demands, strings.ReplaceAll(ntlmAnswer(append(challenge, 0, 0), "Content-Length: 0\r\n"), "=", ""), "HTTP/1.1 200 OK\r\n\r\n"}},
		{"scheme in capitals", []string{strings.Replace(demands, "NTLM", "ntlm", 1), ntlmAnswer(challenge, "Content-Length: 0\r\n"), "HTTP/1.1 200 OK\r\n\r\n"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: script(t, tc.answers...), Username: "svc",
				PasswordFile: passwordFile(t, "canary"),
			})
			conn, err := dial(t, p)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		})
	}
}

func TestNoCredential(t *testing.T) {
	f := newFakeProxy(t, "NTLM", `Basic realm="x"`)
	p := newProxy(t, Settings{Mode: ModeCustom, URL: f.url()})
	_, err := dial(t, p)
	e := wantCode(t, err, CodeAuthRequired)
	if !strings.Contains(e.Error(), "offers NTLM, Basic") || !strings.Contains(e.Advice(), "proxy.password_file") {
		t.Errorf("%v: %s", e, e.Advice())
	}
}

func TestSchemeNotConfigured(t *testing.T) {
	f := newFakeProxy(t, `Basic realm="x"`)
	p := newProxy(t, Settings{
		Mode: ModeCustom, URL: f.url(), Username: "svc", PasswordFile: passwordFile(t, "x"), Auth: []Scheme{SchemeNTLM},
	})
	_, err := dial(t, p)
	wantCode(t, err, CodeAuthUnsupported)
	if f.counts().Attempts != 0 {
		t.Error("the password was shown")
	}
}

// A proxy that says nothing ends the dial with the caller's deadline.
func TestSilentProxy(t *testing.T) {
	for _, answer := range []string{"", "HTT", "HTTP/1.1 200 OK\r\nFoo: "} {
		t.Run(answer, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &pipes{serve: func(c net.Conn) {
					br := bufio.NewReader(c)
					_, _ = http.ReadRequest(br)
					_, _ = io.WriteString(c, answer)
					_, _ = io.Copy(io.Discard, br)
				}}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, err := pipeUpstream(s.reach()).dial(ctx, connectTo(target))
				e := wantCode(t, err, CodeProxyTimeout)
				if !e.Timeout() || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(e.Error(), "did not answer to CONNECT "+target+" within 3s") {
					t.Errorf("%v", e)
				}
				var ne net.Error
				if !errors.As(err, &ne) {
					t.Error("not a net.Error")
				}
				s.wg.Wait()
			})
		})
	}
}

func TestExplain(t *testing.T) {
	p := newProxy(t, Settings{Mode: ModeCustom, URL: "http://proxy.corp:8080", Bypass: []string{"direct.example"}})
	other := errors.New("other")
	known := &Error{code: CodeProxyClosed}
	for _, tc := range []struct {
		name, addr string
		err        error
		code       string // empty: err itself comes back
		says       string
	}{
		{"nothing", target, nil, "", ""},
		{"other", target, other, "", ""},
		{"canceled", target, context.Canceled, "", ""},
		{"known", target, known, "", ""},
		{"direct", "direct.example:443", io.EOF, "", ""},
		{"bad address", "x", io.EOF, "", ""},
		{"silence", target, context.DeadlineExceeded, CodeTunnelSilent, "200 to CONNECT relay.example.com:443 and then nothing came"},
		{"end", target, fmt.Errorf("tls: %w", io.EOF), CodeTunnelClosed, "closed the connection"},
		{"reset", target, &net.OpError{Err: syscall.ECONNRESET}, CodeTunnelClosed, "closed the connection"},
		{"page", target, tls.RecordHeaderError{RecordHeader: [5]byte{'<', 'h', 't', 'm', 'l'}}, CodeTunnelGarbage, `"<html"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := p.Explain(tc.addr, tc.err)
			if tc.code == "" {
				if got != tc.err { // the very same
					t.Errorf("got %v", got)
				}
				return
			}
			e := wantCode(t, got, tc.code)
			if !strings.Contains(e.Error(), tc.says) || !strings.Contains(e.Error(), "proxy.corp:8080") || e.Hop() != "proxy" {
				t.Errorf("%v", e)
			}
			if e.Unwrap() == nil {
				t.Error("the cause is lost")
			}
		})
	}
}
