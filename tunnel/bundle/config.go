package bundle

import (
	"context"
	"log/slog"
	"net"
	"time"
)

// Config is what one end of a bundle needs. It is read once and never changed.
type Config struct {
	// Incarnation is this process' random number; it tells a restarted end
	// from a reconnected one.
	Incarnation uint64
	// Pool is where all buffers come from; nil: a ProcessPool of this bundle's
	// (or node's) own.
	Pool *Pool
	// ResumeGrace is how long a bundle lives without any lane. 0: its streams
	// are reset as soon as the last lane is lost.
	ResumeGrace time.Duration
	// Ended is told, at a node, the end of every stream for which OpenFunc gave a
	// socket, once; nil: nobody is. It must not wait.
	Ended func(peer string, req Request, report Report)
	// Logger is where ends of lanes and refused frames go; nil discards.
	Logger *slog.Logger
	// Metrics counts; nil does not.
	Metrics *Metrics
}

func (c Config) withDefaults() Config {
	if c.Pool == nil {
		c.Pool = ProcessPool()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return c
}

// LaneInfo says what a lane travels on and who is at its ends, as verified by
// the caller from certificates. Nothing in it comes from a message of the peer.
type LaneInfo struct {
	// Carrier names what the lane travels on, for reports: "quic", "tls".
	Carrier string
	// Local and Peer are the verified identities of the two ends (URIs).
	Local, Peer string
	// Exporter is 32 bytes of keying material that the two ends of this lane
	// share with nobody else (RFC 8446 §7.5, label EXPORTER-ebbgate-lane).
	Exporter []byte
	// Express marks the lane that is kept for small frames and for streams
	// that are not bulk. Bulk uses it only where there is no other lane. Each
	// end marks for what it sends.
	Express bool
	// Direct marks a lane that is a connection of its own. Where there is one,
	// bulk uses no other.
	Direct bool
	// Way names what the lane shares with others and may stand still with it, such
	// as a relay. Where all lanes have the same, it says nothing.
	Way string
	// Over is what the lane travels on, for the caller's own use in Replace.
	Over any
	// Worn tells whether the lane's keys have protected as much as they may: it is
	// replaced then; nil: never. It is called under a lock and must be quick.
	Worn func() bool
	// Replaced is called once, at an ingress, when another lane is wanted in the
	// place of this one; nil: nobody makes one.
	Replaced func()
}

// Request is what a stream's OPEN says.
type Request struct {
	UUID  [16]byte // names the stream in reports of both ends
	Grant string   // the signed permission; at most maxGrant bytes
}

// OpenFunc dials the store that a stream is for. peer is the lane's verified
// identity. The socket that it returns has SO_LINGER 0 from birth and belongs
// to the node from then on. A *RefusedError goes to the ingress as it is. ctx
// ends when the ingress gives up.
type OpenFunc func(ctx context.Context, peer string, req Request) (Socket, error)

// Socket is the outside of a stream: a TCP connection to a job or to a store.
// *net.TCPConn is one.
type Socket interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// promptMost is how much is written by who has it in hand, in bytes. With more the
// next bytes would wait: two cores do two halves of a bulk copy at once.
const promptMost = 16 << 10

// promptAfter is how many pieces of a stream the lane's writer writes all the same:
// most streams say little and wait, and TLS on their goroutine's stack doubles it
// until the next collection of garbage.
const promptAfter = 8

// promptSocket is one that can be written without waiting: n < len(p) without an
// error means that it takes no more now.
type promptSocket interface {
	WriteNow(p []byte) (n int, err error)
}

// promptOf is sock's way to be written without waiting; nil: it has none.
func promptOf(sock Socket) promptSocket {
	if s, ok := sock.(promptSocket); ok {
		return s
	}
	if p := NewPrompt(sock); p != nil {
		return p
	}
	return nil
}

// PromptConn is a lane's connection that can write without waiting.
type PromptConn interface {
	net.Conn
	// WriteNow writes frames as far as that needs no waiting. left: the rest is
	// to be written with Flush, before anything else is.
	WriteNow(frames ...[]byte) (left bool, err error)
	Flush() error
}

// Limits of the protocol.
const (
	// maxChunk is the most bytes that one DATA frame carries.
	maxChunk = 256 << 10
	// maxGrant is the longest grant that an OPEN carries, in bytes.
	maxGrant = 8 << 10
	// maxText is the longest text that a REFUSED carries, in bytes.
	maxText = 1 << 10
	// initialCredit is the credit of a fresh stream, in bytes, each way.
	initialCredit = 64 << 10
	// scarceCredit is the same when a quarter of the pool is in use.
	scarceCredit = 16 << 10
	// leastCredit is the same when the pool is nearly dry; no stream has less.
	leastCredit = 4 << 10
	// maxWindow bounds a stream's credit, in bytes.
	maxWindow = 32 << 20
	// bulkThreshold is how many unconsumed bytes make a stream bulk.
	bulkThreshold = 64 << 10
	// maxStreams bounds the streams of one bundle.
	maxStreams = 1 << 16
	// maxStreamGap bounds how far a stream number may run ahead of the oldest
	// one that was never seen.
	maxStreamGap = 1 << 16
	// maxBundles bounds the bundles that one ingress identity has at a node.
	maxBundles = 256
	// maxLanes bounds the lanes of one bundle.
	maxLanes = MaxLanes + 16
	// maxOpening bounds the dials that a node has under way for one bundle.
	maxOpening = 4096
)

// Times of the protocol.
const (
	helloTimeout = 10 * time.Second
	pingBusy     = time.Second            // between pings while something is unacknowledged
	pingIdle     = 15 * time.Second       // between pings of a lane at rest
	maxBusyPings = 10                     // unanswered ones before a busy lane is dead
	maxIdlePings = 3                      // unanswered ones before a lane at rest is dead
	stallCheck   = 500 * time.Millisecond // between looks at sockets that nobody reads
	ackDelay     = 20 * time.Millisecond
	lackDelay    = 5 * time.Millisecond
	closeFlush   = 500 * time.Millisecond // for the last frames of an orderly end
)
