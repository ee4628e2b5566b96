package connector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// listenMetrics opens the metrics address; nil: there is none.
func (c *Connector) listenMetrics(ctx context.Context) (net.Listener, error) {
	addr := c.cfg.File.Metrics
	if addr == "" {
		return nil, nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", string(addr))
	if err != nil {
		return nil, failure("metrics-listen", "config", err, "choose another address, or stop what has it", "metrics: %v", err)
	}
	return ln, nil
}

// metricsAddress is where metrics are served; empty: nowhere.
func (r *running) metricsAddress() string {
	if r.scraped == nil {
		return ""
	}
	return r.scraped.Addr().String()
}

// serveMetrics answers scrapes until ctx ends.
func (r *running) serveMetrics(ctx context.Context) error {
	if r.scraped == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.cfg.Registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(r.scraped); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("connector: metrics: %w", err)
	}
	return nil
}

// metrics counts what a connector does.
type metrics struct {
	dials       *prometheus.CounterVec // by outcome
	dialSeconds prometheus.Histogram
	sessions    *prometheus.GaugeVec   // by role and carrier
	direct      prometheus.Gauge       // lanes that are connections of their own
	renewals    *prometheus.CounterVec // by result
	reloads     *prometheus.CounterVec // by result
	configGood  prometheus.Gauge
	endsDropped prometheus.Counter
}

// newMetrics makes the counters and registers them; with nil they count
// unregistered.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		dials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ebbgate_connector_dials_total", Help: "Dials of stores, by outcome: ok or the code of the refusal.",
		}, []string{"outcome"}),
		dialSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ebbgate_connector_dial_seconds", Help: "Time from a stream's request to the store's answer.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
		}),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ebbgate_connector_sessions", Help: "Sessions that are up, by role and carrier.",
		}, []string{"role", "carrier"}),
		direct: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ebbgate_connector_direct_lanes", Help: "Lanes that are connections of their own.",
		}),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ebbgate_connector_renewals_total", Help: "Renewals of the node's certificate, by result.",
		}, []string{"result"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ebbgate_connector_reloads_total", Help: "Times that the configuration was read again, by result: ok, unchanged or refused.",
		}, []string{"result"}),
		configGood: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ebbgate_connector_config_good", Help: "1 while the configuration that was read last is in force, 0 while it is refused.",
		}),
		endsDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ebbgate_connector_ends_dropped_total", Help: "Ends of streams that were never reported because no relay took them for too long.",
		}),
	}
	m.configGood.Set(1)
	if reg != nil {
		reg.MustRegister(m.dials, m.dialSeconds, m.sessions, m.direct, m.renewals, m.reloads, m.configGood, m.endsDropped)
	}
	return m
}
