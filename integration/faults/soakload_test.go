//go:build linux

package faults

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// streamTime bounds one stream of a soak. What takes longer hangs.
const streamTime = 5 * time.Minute

// play has streams by both ingresses, one after the other.
func (p *soaked) play(ctx context.Context, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		default:
		}
		if !p.one(ctx, both[i%2]) {
			p.soak.pause(stop, 200*time.Millisecond) // the relay, say, is down
		}
	}
}

// one plays a stream of a random shape. It must look as on a direct connection, unless an end of it was lost meanwhile:
// then it may be an error, but never a good end of other bytes. False: there was no stream.
func (p *soaked) one(ctx context.Context, ingress string) bool {
	ctx, cancel := context.WithTimeout(ctx, streamTime)
	defer cancel()
	losses := p.losses(ingress)
	conn, err := p.dial(ctx, ingress)
	if err != nil { // it says so, and no byte was moved
		p.ended(ingress + " refused")
		return false
	}
	s := shape()
	s.Job.Script.ID = rand.Text()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	content, _ := s.Job.Run(conn)
	if content.Kind == oracle.KindTimeout {
		p.t.Errorf("%s: a stream by %s (%s) hangs: %v", p.gateway, ingress, s.Name, content)
		return true
	}
	if err := content.Honest(s.Job.Script.Seed, s.Job.Script.Send); err != nil {
		p.t.Errorf("%s: by %s (%s) the job saw: %v", p.gateway, ingress, s.Name, err)
	}
	whole := s.Content == nil || content.Complete() == (s.Content[0] == oracle.KindComplete)
	if !whole && p.losses(ingress) == losses {
		if content.Bytes > 0 { // else the dial may have failed, which only a forward hides
			p.t.Errorf("%s: a stream by %s (%s) did not outlive what it should: %v", p.gateway, ingress, s.Name, content)
		} else {
			p.ended(ingress + " not begun")
			return false
		}
	}
	if content.Complete() {
		report, err := p.store.Report(ctx, s.Job.Script.ID)
		if err != nil {
			p.t.Errorf("%s: %v", p.gateway, err)
			return true
		}
		if err := report.Upload.Honest(s.Job.Script.UploadSeed, s.Job.Upload); err != nil {
			p.t.Errorf("%s: by %s (%s) the store saw: %v", p.gateway, ingress, s.Name, err)
		}
	}
	p.ended(ingress + " " + string(content.Kind))
	return true
}

// shape is a shape of a connection: a copy both ways that takes some seconds, or one of the oracle's.
func shape() oracle.Scenario {
	if mathrand.IntN(3) == 0 {
		all := oracle.Scenarios(mathrand.IntN(10))
		return all[mathrand.IntN(len(all))]
	}
	return oracle.Scenario{
		Name: "copy both ways",
		Job: oracle.Job{
			Script: oracle.Script{
				Seed: mathrand.Uint64(), Send: mathrand.Int64N(12 << 20), End: oracle.EndFIN, UploadSeed: mathrand.Uint64(),
				Chunk: 64 << 10, Pause: 20 * time.Millisecond,
			},
			Upload: mathrand.Int64N(4 << 20), End: oracle.EndFIN,
		},
		Content: []oracle.Kind{oracle.KindComplete},
	}
}

// round plays a short stream by each ingress until it is well.
func (p *soaked) round(ctx context.Context) {
	s := oracle.Scenarios(1)[0]
	for _, ingress := range both {
		for {
			conn, err := p.dial(ctx, ingress)
			if err == nil {
				err = s.Run(ctx, conn, p.store)
			}
			if err == nil {
				break
			}
			if wait(ctx, 200*time.Millisecond); ctx.Err() != nil {
				p.t.Error(fmt.Errorf("%s: by %s nothing works: %w", p.gateway, ingress, err))
				return
			}
		}
	}
}
