package ingress

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the ingresses answer.
type Metrics struct {
	requests *prometheus.CounterVec // reason
}

// NewMetrics makes the counters and registers them; with nil they count
// unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "ebbgate", Subsystem: "ingress", Name: "requests_total",
		Help: "Requests at the ingresses, by the code of the answer; ok is an open stream.",
	}, []string{"reason"})}
	if reg != nil {
		reg.MustRegister(m.requests)
	}
	return m
}
