package demo

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	pings = 20 // of which the fastest counts
	// settle is how long the proxy's counts may lag behind the job's.
	settle = 2 * time.Second
)

// copyBothWays runs the job: an object out of the store, then one into it.
func (p *path) copyBothWays(opt Options) error {
	source := opt.File
	if source == "" {
		source = filepath.Join(p.dir, "source")
		if err := makeFile(p.ctx, source, opt.Size); err != nil {
			return err
		}
	}
	if err := p.store.Add("source", source); err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	job := NewJob(JobConfig{Ingress: p.ingress, Name: demoJob, Token: p.token, Roots: p.roots})
	defer job.Close()
	url := "https://" + net.JoinHostPort(demoStore+"."+demoGateway, strconv.Itoa(p.storePort)) + "/"
	if err := p.measure(job, url+"source"); err != nil {
		return err
	}
	p.screen.line("job        HTTPS to %s through CONNECT %s", strings.TrimSuffix(strings.TrimPrefix(url, "https://"), "/"), p.ingress)

	before := p.proxy.Stats()
	copied := filepath.Join(p.dir, "copy")
	progress, finish := p.screen.bar("read", info.Size())
	if p.result.Read, err = job.Download(p.ctx, url+"source", copied, progress); err != nil {
		return err
	}
	finish(p.result.Read)

	if opt.File == "" {
		// Another file is written than was read, without the room for both.
		p.store.Remove("source")
		if err := removeAll(source, copied); err != nil {
			return err
		}
		if err := makeFile(p.ctx, copied, opt.Size); err != nil {
			return err
		}
	}
	progress, finish = p.screen.bar("write", info.Size())
	if p.result.Write, err = job.Upload(p.ctx, copied, url+"written", progress); err != nil {
		return err
	}
	finish(p.result.Write)
	if err := p.refreshNode(); err != nil {
		return err
	}
	p.account(before)
	return nil
}

// measure times the way to the ingress and the whole path at rest.
func (p *path) measure(job *Job, object string) error {
	start := time.Now()
	var dialer net.Dialer
	conn, err := dialer.DialContext(p.ctx, "tcp", p.ingress)
	if err != nil {
		return fmt.Errorf("demo: the ingress does not answer: %w", err)
	}
	p.connect = time.Since(start)
	conn.Close()
	for i := range pings {
		d, err := job.Ping(p.ctx, object)
		if err != nil {
			return err
		}
		if i > 0 && (p.roundTrip == 0 || d < p.roundTrip) { // the first one also dialled
			p.roundTrip = d
		}
	}
	p.result.RoundTripMS = milliseconds(p.roundTrip)
	return nil
}

// account fills in what relay and proxy say about the copies.
func (p *path) account(before ProxyStats) {
	p.result.Carrier = p.node.Carrier
	ctx, cancel := context.WithTimeout(p.ctx, settle)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for waiting := true; waiting; {
		now := p.proxy.Stats()
		p.passed = ProxyStats{Sent: now.Sent - before.Sent, Received: now.Received - before.Received}
		if p.passed.Sent >= p.result.Read.Bytes && p.passed.Received >= p.result.Write.Bytes {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			waiting = false
		}
	}
	now := p.proxy.Stats()
	p.result.ProxyTunnels, p.result.ProxyBytes = now.Tunnels, now.Sent+now.Received
	if now.Tunnels > 0 { // the proxy opens none without a proof
		p.result.ProxyAuth = proxyAuthNTLM
	}
}

// show prints what a person wants to see at the end.
func (p *path) show() {
	s := p.proxy.Stats()
	p.screen.table([]hop{
		{"job -> ingress", "HTTP CONNECT with the job's token, " + p.ingress, p.connect},
		{"relay <- connector", fmt.Sprintf("carrier %s, %s; when it connected", p.node.Carrier, p.relayTLS), time.Duration(p.node.RTT * float64(time.Millisecond))},
		{"proxy <- connector", fmt.Sprintf(`NTLM as %s\%s, %s, %d tunnels, %s`, demoDomain, demoUser, p.proxyAddr, s.Tunnels, size(s.Sent+s.Received)), 0},
		{"connector -> store", fmt.Sprintf("TCP 127.0.0.1:%d", p.storePort), 0},
		{"job -> store", "the whole path, an HTTPS request", p.roundTrip},
	})
	p.screen.line("")
	p.screen.digests("read", p.result.Read)
	p.screen.digests("write", p.result.Write)
}

func removeAll(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	return nil
}
