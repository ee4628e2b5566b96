package ingress

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRefusalsAreSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := sampler{logger: slog.New(slog.NewTextHandler(&out, nil))}
		for range 1000 {
			s.refused("code", "token-invalid")
		}
		time.Sleep(time.Second)
		s.refused("code", "token-invalid")
		if n := strings.Count(out.String(), "msg=refused "); n != refusalsLogged+1 {
			t.Errorf("%d refusals were logged, want %d", n, refusalsLogged+1)
		}
		if !strings.Contains(out.String(), "number=980") {
			t.Errorf("it does not say how many were left out: %s", out.String())
		}
	})
}
