package proxycfg

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

const (
	// exchangeTimeout is for everything between a dial through a proxy and its
	// end: waiting for other dials, TCP, all requests and answers.
	exchangeTimeout = 20 * time.Second

	// outcomeGrace is how long a dial that was given up still listens for what
	// became of the first attempt with a credential.
	outcomeGrace = time.Second
)

// exchange is the talk with a proxy on one connection. It ends by release or by
// close.
type exchange struct {
	conn    net.Conn
	answers *answerReader
	req     *request

	attempt atomic.Bool // an attempt was sent whose outcome matters
	stop    func() bool
	expired chan struct{} // closed when expire ran
}

// newExchange takes conn over. When ctx ends, what is read or written ends too.
func newExchange(ctx context.Context, conn net.Conn, req *request) *exchange {
	x := &exchange{
		conn: conn, answers: newAnswerReader(conn, req.method), req: req,
		expired: make(chan struct{}),
	}
	x.stop = context.AfterFunc(ctx, x.expire)
	return x
}

// expire runs when the context ends.
func (x *exchange) expire() {
	defer close(x.expired)
	at := time.Unix(1, 0)
	if x.attempt.Load() {
		at = time.Now().Add(outcomeGrace)
	}
	_ = x.conn.SetDeadline(at)
}

// settle waits for expire, if it runs. False: it ran.
func (x *exchange) settle() bool {
	if x.stop() {
		return true
	}
	<-x.expired
	return false
}

// send writes the request once.
func (x *exchange) send(authorization string) error {
	_, err := x.conn.Write([]byte(x.req.text(authorization)))
	return err
}

// ask writes the request once and reads its answer.
func (x *exchange) ask(authorization string) (*answer, error) {
	if err := x.send(authorization); err != nil {
		return nil, err
	}
	return x.answers.read()
}

// release gives the connection, which is what was asked for now, to the caller. An error
// is the context's, and the connection is closed.
func (x *exchange) release(ctx context.Context) (net.Conn, error) {
	if !x.settle() {
		_ = x.conn.Close()
		return nil, ctx.Err()
	}
	if rest := x.answers.rest(); len(rest) > 0 {
		return &Conn{Conn: x.conn, buffered: rest}, nil
	}
	return x.conn, nil
}

// close ends the connection. After release it must not be called.
func (x *exchange) close() {
	x.settle()
	_ = x.conn.Close()
}
