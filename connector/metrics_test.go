package connector

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestMetrics: what the connector counts is served where metrics says.
func TestMetrics(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	opt := r.options(t)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	opt.File.Metrics = "127.0.0.1:0"
	p := run(t, opt.File)
	ready := <-p.ready
	answer, err := http.Get("http://" + ready.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	http.DefaultClient.CloseIdleConnections()
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", answer.Status, err)
	}
	for _, want := range []string{"ebbgate_connector_sessions{", "ebbgate_connector_direct_lanes", "ebbgate_bundle_streams"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("there is no %s in:\n%s", want, page)
		}
	}
}
