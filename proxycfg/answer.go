package proxycfg

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
)

const (
	maxHeader        = 64 << 10  // bytes of one answer before its body
	maxDrain         = 256 << 10 // bytes of a 407's body
	maxInformational = 8         // 1xx answers before the real one
	sniffed          = 5         // len("HTTP/")
)

var errHeaderTooLarge = errors.New("header too large")

// notHTTPError is an answer that is not HTTP.
type notHTTPError struct{ seen string }

func (e *notHTTPError) Error() string { return "not HTTP: " + quote(e.seen) }

// answerReader reads a proxy's answers off one connection.
type answerReader struct {
	asked *http.Request // its method
	limit io.LimitedReader
	br    *bufio.Reader
}

func newAnswerReader(r io.Reader, method string) *answerReader {
	a := &answerReader{asked: &http.Request{Method: method}, limit: io.LimitedReader{R: r}}
	a.br = bufio.NewReader(&a.limit)
	return a
}

// answer is one final answer to a request.
type answer struct {
	status  int
	line    string // HTTP/1.1 407 Proxy Authentication Required
	detail  string // what the proxy said beyond the status line
	offers  []challenge
	header  http.Header
	closing bool // the connection cannot be used again
	page    bool // a web page came, not a tunnel
	body    io.Reader
}

// tunnel says that the connection now belongs to the destination.
func (a *answer) tunnel() bool { return a.status/100 == 2 && !a.page }

// offer finds a scheme among those offered.
func (a *answer) offer(s Scheme) (challenge, bool) {
	for _, c := range a.offers {
		if strings.EqualFold(c.scheme, string(s)) {
			return c, true
		}
	}
	return challenge{}, false
}

// read reads one answer's header. 1xx answers are skipped (RFC 9110, section
// 15.2). Errors are a *notHTTPError, errHeaderTooLarge, or the connection's.
func (r *answerReader) read() (*answer, error) {
	for range maxInformational {
		a, err := r.readOne()
		if err != nil {
			return nil, err
		}
		if a.status/100 != 1 || a.status == http.StatusSwitchingProtocols {
			return a, nil
		}
	}
	return nil, &notHTTPError{"a row of 1xx answers"}
}

func (r *answerReader) readOne() (*answer, error) {
	r.limit.N = maxHeader
	// A peer that speaks another protocol may go on to say nothing: don't wait
	// for a whole line of it.
	for n := 1; n <= sniffed; n++ {
		b, err := r.br.Peek(n)
		if string(b) != "HTTP/"[:len(b)] {
			b, _ = r.br.Peek(min(r.br.Buffered(), maxQuoted))
			return nil, &notHTTPError{string(b)}
		}
		if err != nil {
			return nil, err
		}
	}
	start, _ := r.br.Peek(min(r.br.Buffered(), maxQuoted))
	seen, _, _ := strings.Cut(string(start), "\n")
	resp, err := http.ReadResponse(r.br, r.asked)
	if err != nil {
		var stopped interface{ Timeout() bool }
		switch {
		case r.limit.N <= 0:
			return nil, errHeaderTooLarge
		case errors.As(err, &stopped), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, err
		}
	}
	if err != nil || resp.StatusCode < 100 {
		return nil, &notHTTPError{strings.TrimRight(seen, "\r")}
	}
	a := &answer{
		status: resp.StatusCode,
		line:   resp.Proto + " " + resp.Status,
		offers: parseChallenges(resp.Header.Values("Proxy-Authenticate")),
		header: resp.Header,
		body:   resp.Body,
	}
	unbounded := resp.ContentLength < 0 && len(resp.TransferEncoding) == 0
	a.closing = unbounded || hasToken(resp.Header, "close")
	if resp.ProtoAtLeast(1, 1) {
		a.closing = a.closing || resp.Close // net/http takes this header away
	} else {
		a.closing = a.closing || !hasToken(resp.Header, "keep-alive")
	}
	// A tunnel's answer has no body; a web server's has, and a type with it.
	body := resp.ContentLength > 0 || len(resp.TransferEncoding) > 0 || strings.HasPrefix(string(r.rest()), "<")
	a.page = a.status/100 == 2 && body &&
		strings.HasPrefix(strings.ToLower(resp.Header.Get("Content-Type")), "text/html")
	if at := resp.Header.Get("Location"); a.status/100 == 3 && at != "" {
		a.detail = "to " + quote(at)
	} else if said := resp.Header.Get("X-Squid-Error"); said != "" {
		a.detail = quote(said)
	}
	return a, nil
}

// drain reads the body so that another request can follow. False: it cannot.
func (r *answerReader) drain(a *answer) (bool, error) {
	if a.closing {
		return false, nil
	}
	r.limit.N = maxDrain + maxHeader
	n, err := io.Copy(io.Discard, io.LimitReader(a.body, maxDrain+1))
	if r.limit.N <= 0 || n > maxDrain {
		return false, nil
	}
	return err == nil, err
}

// rest is what came after the answer.
func (r *answerReader) rest() []byte {
	b, _ := r.br.Peek(r.br.Buffered())
	return b
}

// hasToken looks for a token in Connection and in what older proxies say.
func hasToken(h http.Header, token string) bool {
	for _, name := range []string{"Connection", "Proxy-Connection"} {
		for _, line := range h.Values(name) {
			for part := range strings.SplitSeq(line, ",") {
				if strings.EqualFold(strings.TrimSpace(part), token) {
					return true
				}
			}
		}
	}
	return false
}
