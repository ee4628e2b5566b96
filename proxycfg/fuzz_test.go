package proxycfg

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// FuzzAnswer reads what a proxy may send: no panic, bounded, and what it takes
// for a tunnel starts with an answer of success.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 Connection established\r\n\r\n\x16\x03\x03",
		"HTTP/1.0 200\r\n\r\n",
		demands,
		ntlmAnswer(ntlmChallengeMessage(), "Content-Length: 3\r\n") + "abcHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate, NTLM, Basic realm=\"a, b\\\"\"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
		"SSH-2.0-x\r\n", "<html>", "\x15\x03\x01\x00\x02\x02\x16", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		src := &countingReader{r: strings.NewReader(string(data))}
		r := newAnswerReader(src, http.MethodConnect)
		a, err := r.read()
		if limit := maxInformational*maxHeader + 8<<10; src.n > limit {
			t.Errorf("read %d bytes", src.n)
		}
		if err != nil {
			var seen *notHTTPError
			if !errors.As(err, &seen) && !errors.Is(err, errHeaderTooLarge) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("untyped error %v", err)
			}
			return
		}
		if a.status < 101 || a.status > 999 || a.tunnel() && a.status/100 != 2 {
			t.Errorf("status %d", a.status)
		}
		_ = errStatus("p", connectTo("t"), a).Error()
		_ = offered(a.offers)
		before := src.n
		if ok, err := r.drain(a); ok && (err != nil || a.closing) {
			t.Errorf("drained: %v %v", err, a.closing)
		}
		if src.n-before > maxDrain+maxHeader {
			t.Errorf("drained %d bytes", src.n-before)
		}
		_ = r.rest()
	})
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// FuzzNTLMChallenge answers challenges that a proxy made up.
func FuzzNTLMChallenge(f *testing.F) {
	good := ntlmChallengeMessage()
	f.Add(good, "CORP\\svc")
	f.Add(good[:48], "svc@corp.test")
	f.Add(good[:40], "")
	noInfo := append([]byte(nil), good...)
	noInfo[40], noInfo[41] = 0, 0
	f.Add(noInfo, "svc")
	far := append([]byte(nil), good...)
	far[47] = 0xff
	f.Add(far, "svc")
	f.Fuzz(func(t *testing.T, challenge []byte, user string) {
		m, err := ntlmAuthenticate(base64.StdEncoding.EncodeToString(challenge), user, "password")
		if err != nil {
			if strings.Contains(err.Error(), "password") {
				t.Errorf("password in %v", err)
			}
			return
		}
		if kind, _ := ntlmType(m); kind != 3 {
			t.Errorf("not a third message: %q", m)
		}
	})
}

// FuzzChallenges parses lists of challenges.
func FuzzChallenges(f *testing.F) {
	f.Add("NTLM")
	f.Add("Negotiate, NTLM TlRM, Basic realm=\"a, b\", charset=\"UTF-8\"")
	f.Add("Digest realm=\"r\", nonce = \"x\\\",\", qop=auth")
	f.Add(`Basic realm="unclosed, NTLM`)
	f.Fuzz(func(t *testing.T, line string) {
		list := parseChallenges([]string{line, line})
		if len(list) > maxChallenges {
			t.Errorf("%d challenges", len(list))
		}
		for _, c := range list {
			if !isToken(c.scheme) || c.token != "" && !isToken68(c.token) {
				t.Errorf("%+v", c)
			}
		}
	})
}

func TestParseChallenges(t *testing.T) {
	for _, tc := range []struct{ lines, want string }{
		{"NTLM", "NTLM"},
		{"Negotiate|NTLM|Basic realm=\"x\"", "Negotiate NTLM Basic"},
		{"Negotiate, NTLM, Basic realm=\"x\"", "Negotiate NTLM Basic"},
		{"NTLM TlRMTVNTUAAC==", "NTLM:TlRMTVNTUAAC=="},
		{"NTLM\tTlRM", "NTLM:TlRM"},
		{"Basic realm=\"a, NTLM\", charset=\"UTF-8\"", "Basic"},
		{"Basic realm=\"a\\\", NTLM b\"", "Basic"},
		{"Digest realm=\"r\", nonce=\"n\", algorithm=MD5, Basic realm=r", "Digest Basic"},
		{"Digest realm = \"r\" , nonce = x, NTLM", "Digest NTLM"},
		{", ,NTLM,,", "NTLM"},
		{"", ""},
		{"\"NTLM\"", ""},
		{"<b>", ""},
	} {
		var got []string
		for _, c := range parseChallenges(strings.Split(tc.lines, "|")) {
			if c.token != "" {
				c.scheme += ":" + c.token
			}
			got = append(got, c.scheme)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%q: %v, want %s", tc.lines, got, tc.want)
		}
	}
}

// A panic of the library is an error.
func TestNTLMPanics(t *testing.T) {
	m, err := caught(func() ([]byte, error) { panic("index out of range") })
	if m != nil || err == nil {
		t.Errorf("%q, %v", m, err)
	}
}
