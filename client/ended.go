package client

import (
	"context"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// farewell is how long relays may take nothing of the ends of the last streams when
// the client stops; farewellMost is how long they have in all.
const (
	farewell     = 500 * time.Millisecond
	farewellMost = 3 * time.Second
)

// ended has the end of a stream reported: it is this side's half of the activity
// record.
func (c *Client) ended(s *Stream, report bundle.Report) {
	own := c.currentIdentity()
	c.ends.Add(tunnel.Ended{Names: tunnel.Names{Ingress: own.String(), Node: s.node, Store: s.Target.Store, Job: own.Name, Run: c.cfg.Run}, End: tunnel.EndAtIngress(report)})
}

// reportSession is where it is reported.
func (c *Client) reportSession(ctx context.Context) (*tunnel.Session, error) {
	return c.sessions.awaitAny(ctx)
}

// reportLast gives the last ends a moment to reach a relay. What does not is
// known to the nodes alone.
func (c *Client) reportLast() {
	ctx, cancel := context.WithTimeout(context.Background(), farewellMost)
	defer cancel()
	if n := c.ends.Flush(ctx, farewell); n > 0 {
		c.log.Info("ends of streams were not reported before the end: the activity record has only what the node says", "streams", n)
	}
}
