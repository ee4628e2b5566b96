package ingress

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// FuzzRequest reads requests of an HTTP proxy's clients as net/http does, and
// answers them. Whatever they say, who has not proved to be a job dials nothing,
// and what a job may name is a name and a port.
func FuzzRequest(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		relay := &fakeRelay{targets: make(chan Target, 10), jobs: make(chan Job, 10)}
		w := httptest.NewRecorder()
		NewConnect(relay, nil, nil).ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			t.Errorf("%q: a tunnel on a connection that cannot be taken over", b)
		}
		if w.Code == http.StatusInternalServerError || w.Code == http.StatusProxyAuthRequired && w.Header().Get("Proxy-Authenticate") == "" {
			t.Errorf("%q: %d without a challenge", b, w.Code)
		}
		if strings.Contains(w.Body.String(), "secret") && !strings.Contains(r.RequestURI, "secret") && !strings.Contains(r.Host, "secret") {
			t.Errorf("%q: the answer has the token: %q", b, w.Body)
		}
		close(relay.targets)
		for target := range relay.targets {
			if user, token, err := credentials(r); err != nil || token != "secret" || len(user) > len(b) {
				t.Errorf("%q: dialled without the token", b)
			}
			if target.Port < 0 || target.Port > 65535 || target.Host == "" || slices.Contains([]byte(target.Host), ' ') && !strings.Contains(r.RequestURI, " ") {
				t.Errorf("%q: target %+v", b, target)
			}
		}
	})
}
