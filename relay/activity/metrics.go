package activity

import "github.com/prometheus/client_golang/prometheus"

// metrics counts what is recorded.
type metrics struct {
	halves    *prometheus.CounterVec // result
	results   *prometheus.CounterVec // result
	refused   *prometheus.CounterVec // result
	failures  prometheus.Counter
	waiting   prometheus.Gauge
	available prometheus.Gauge
}

// What becomes of a half.
const (
	recorded = "recorded"
	repeated = "repeated"
	dropped  = "dropped"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	name := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "ebbgate", Subsystem: "activity", Name: name, Help: help}
	}
	m := &metrics{
		halves: prometheus.NewCounterVec(prometheus.CounterOpts(name("halves_total",
			"Reports of one end of a stream, by what became of them: recorded, repeated, or dropped because they could not be written.")), []string{"result"}),
		results: prometheus.NewCounterVec(prometheus.CounterOpts(name("streams_total",
			"Streams by their result; one whose second half changes it counts again.")), []string{"result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts(name("refused_total",
			"Dials that were refused, by what became of them: recorded, summed up for their job because there were too many runs, dropped for the same reason, or repeated.")), []string{"result"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts(name("write_failures_total",
			"Times that the database could not be opened or written."))),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts(name("halves_waiting",
			"Reports that are not written yet."))),
		available: prometheus.NewGauge(prometheus.GaugeOpts(name("available",
			"1 while the database can be written, else 0."))),
	}
	if reg != nil {
		reg.MustRegister(m.halves, m.results, m.refused, m.failures, m.waiting, m.available)
	}
	return m
}
