package bundle

import (
	"context"
	"net"
	"time"
)

// DefaultPoolSize is the pool of a process that configures none, in bytes.
const DefaultPoolSize = 256 << 20

type Pool struct{}

func NewPool(bytes int64) *Pool { panic("todo") }

type Bundle struct{}

func NewIngress(cfg Config) *Bundle                                            { panic("todo") }
func (b *Bundle) Join(ctx context.Context, conn net.Conn, info LaneInfo) error { panic("todo") }
func (b *Bundle) Open(ctx context.Context, grant string) (*Stream, error)      { panic("todo") }
func (b *Bundle) Done() <-chan struct{}                                        { panic("todo") }
func (b *Bundle) Err() error                                                   { panic("todo") }
func (b *Bundle) Close(code Code)                                              { panic("todo") }
func (b *Bundle) Streams() int                                                 { panic("todo") }
func (b *Bundle) Lanes() int                                                   { panic("todo") }

type Node struct{}

func NewNode(cfg Config, open OpenFunc) *Node                                 { panic("todo") }
func (n *Node) Serve(ctx context.Context, conn net.Conn, info LaneInfo) error { panic("todo") }
func (n *Node) Close(code Code)                                               { panic("todo") }
func (n *Node) Streams() int                                                  { panic("todo") }

// Drain makes the node refuse new streams with CodeNodeDraining.
func (n *Node) Drain() { panic("todo") }

// Reset resets the node's streams for which match returns true.
func (n *Node) Reset(code Code, match func(peer string, req Request) bool) { panic("todo") }

type Stream struct{}

func (s *Stream) Carry(sock Socket, prefix []byte) Report { panic("todo") }
func (s *Stream) Reset(code Code)                         { panic("todo") }
func (s *Stream) UUID() [16]byte                          { panic("todo") }

// Report says how a stream ended.
type Report struct {
	UUID                 [16]byte
	Sent, Received       int64
	SentCRC, ReceivedCRC uint32
	Resumes              int
	Reason               Code
	Remote               bool
	Start, End           time.Time
}
