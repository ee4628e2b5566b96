package relay

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebbgate/ebbgate/relay/state"
)

// metrics counts what the relay accepts and refuses.
type metrics struct {
	connections *prometheus.CounterVec // kind: what its first bytes were, or why it was closed
	sessions    *prometheus.GaugeVec   // role, carrier
	sessionEnds *prometheus.CounterVec // reason
	enrolments  *prometheus.CounterVec // reason
	dials       *prometheus.CounterVec // reason
	ends        *prometheus.CounterVec // result: taken, or why a report of a stream's end was refused
	laneEnds    *prometheus.CounterVec // reason
	lanes       prometheus.Gauge       // of clients, copied by the relay
	copied      prometheus.Counter
	spliced     prometheus.Counter
	reloads     *prometheus.CounterVec // result
	configGood  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "ebbgate", Subsystem: "relay", Name: name, Help: help}, labels)
	}
	m := &metrics{
		connections: vec("connections_total", "TCP and QUIC connections, by what they turned out to be.", "kind"),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "ebbgate", Subsystem: "relay", Name: "sessions",
			Help: "Sessions that are open now.",
		}, []string{"role", "carrier"}),
		sessionEnds: vec("sessions_ended_total", "Sessions that ended, by reason.", "reason"),
		enrolments:  vec("enrolments_total", "Enrolments, by the code of their answer; ok was accepted.", "reason"),
		dials:       vec("dials_total", "Dials, by the code of their answer; ok opened a stream or gave a grant.", "reason"),
		ends:        vec("ends_reported_total", "Ends of streams that nodes and clients reported; taken, or why they were refused.", "result"),
		laneEnds:    vec("client_lanes_total", "Clients' lanes, by the code of their answer; ok was joined to a node's.", "reason"),
		lanes: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "ebbgate", Subsystem: "relay", Name: "client_lanes",
			Help: "Lanes between clients and nodes that the relay moves now.",
		}),
		spliced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ebbgate_relay_lane_spliced_bytes_total", Help: "Bytes of clients' direct lanes that are over, moved without reading them.",
		}),
		copied: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "ebbgate", Subsystem: "relay", Name: "client_lane_bytes_total",
			Help: "Bytes moved between clients' and nodes' lanes.",
		}),
		reloads: vec("reloads_total", "Times that the configuration was read again, by result: ok, unchanged or refused.", "result"),
		configGood: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "ebbgate", Subsystem: "relay", Name: "config_good",
			Help: "1 while the configuration that was read last is in force, 0 while it is refused.",
		}),
	}
	m.configGood.Set(1)
	reg.MustRegister(m.connections, m.sessions, m.sessionEnds, m.enrolments, m.dials, m.ends, m.laneEnds, m.lanes, m.copied, m.spliced, m.reloads, m.configGood)
	return m
}

// watchState shows whether the state's database can be reached.
func watchState(reg prometheus.Registerer, s *state.State) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "ebbgate", Subsystem: "relay", Name: "state_available",
		Help: "1 while the database that relays share can be reached, 0 while changes fail because it cannot.",
	}, func() float64 {
		if s.Away() {
			return 0
		}
		return 1
	}))
}

// count adds one under the code of err; ok without an error.
func count(v *prometheus.CounterVec, err error) { v.WithLabelValues(codeOf(err)).Inc() }

func codeOf(err error) string {
	if err == nil {
		return "ok"
	}
	var c interface{ Code() string }
	if errors.As(err, &c) {
		return c.Code()
	}
	return "internal"
}
