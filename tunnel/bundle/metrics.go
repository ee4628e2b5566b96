package bundle

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what bundles do. One is shared by all bundles of a process.
type Metrics struct {
	streams      prometheus.Gauge
	lanes        prometheus.Gauge
	opened       prometheus.Counter
	ended        *prometheus.CounterVec // reason
	refused      *prometheus.CounterVec // reason
	laneEnds     *prometheus.CounterVec // reason
	dropped      *prometheus.CounterVec // reason
	repeated     prometheus.Counter
	suspects     prometheus.Counter
	replaced     *prometheus.CounterVec // reason
	bytesRead    prometheus.Counter
	bytesWritten prometheus.Counter
}

// NewMetrics makes the counters and registers them; with nil they count
// unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "ebbgate", Subsystem: "bundle", Name: name, Help: help})
	}
	vec := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "ebbgate", Subsystem: "bundle", Name: name, Help: help}, []string{"reason"})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "ebbgate", Subsystem: "bundle", Name: name, Help: help})
	}
	m := &Metrics{
		streams:      gauge("streams", "Streams that are open now."),
		lanes:        gauge("lanes", "Lanes that are joined now."),
		opened:       counter("streams_opened_total", "Streams that were opened."),
		ended:        vec("streams_ended_total", "Streams that ended, by reason; ok is the good end."),
		refused:      vec("streams_refused_total", "Streams that were refused, by reason."),
		laneEnds:     vec("lanes_ended_total", "Lanes that ended, by reason."),
		dropped:      vec("frames_dropped_total", "Frames without effect, by reason."),
		repeated:     counter("chunks_repeated_total", "Chunks that were sent again on another lane."),
		suspects:     counter("lanes_suspected_total", "Times that a lane was silent for too long and its frames went elsewhere."),
		replaced:     vec("lanes_replaced_total", "Lanes that were to be replaced by others, by reason."),
		bytesRead:    counter("socket_read_bytes_total", "Bytes read from jobs' and stores' sockets."),
		bytesWritten: counter("socket_written_bytes_total", "Bytes written to jobs' and stores' sockets."),
	}
	if reg != nil {
		reg.MustRegister(m.streams, m.lanes, m.opened, m.ended, m.refused, m.laneEnds, m.dropped, m.repeated, m.suspects, m.replaced, m.bytesRead, m.bytesWritten)
	}
	return m
}
