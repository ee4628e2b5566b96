package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// childEnv tells a re-executed program that it is to be a store, and where it listens.
const childEnv = "EBBGATE_ORACLE_LISTEN"

// ChildMain turns the program into a store process if it was started as one, and then never returns. A main
// function or TestMain that uses StartStore calls it first.
func ChildMain() {
	addr, ok := os.LookupEnv(childEnv)
	if !ok {
		return
	}
	if err := serveChild(addr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveChild prints the ready line and one line for each report.
func serveChild(addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("oracle: %w", err)
	}
	var mu sync.Mutex
	show := func(prefix string, v any) {
		line, err := json.Marshal(v)
		if err != nil {
			panic("oracle: BUG: " + err.Error())
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%s %s\n", prefix, line)
	}
	show("ready", childReady{Addr: ln.Addr().String()})
	store := &Store{Reports: func(r Report) { show("report", r) }}
	return store.Serve(ctx, ln)
}

type childReady struct {
	Addr string `json:"addr"`
}

// StoreProcess is a store that runs as a process of its own. Its methods are safe for concurrent use.
type StoreProcess struct {
	*proc.Process
	addr string

	mu      sync.Mutex
	reports map[string]chan Report // capacity 1 each
}

// StartStore starts this program again as a store that listens on addr, on this machine if where is nil.
func StartStore(ctx context.Context, where proc.Starter, addr string) (*StoreProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("oracle: %w", err)
	}
	s := &StoreProcess{reports: make(map[string]chan Report)}
	s.Process, err = proc.Start(proc.Spec{
		Name:  "store",
		Path:  self,
		Env:   []string{childEnv + "=" + addr},
		Lines: s.line,
		Where: where,
	})
	if err != nil {
		return nil, err
	}
	var ready childReady
	if err := s.Ready(ctx, &ready); err != nil {
		s.Kill()
		return nil, err
	}
	s.addr = ready.Addr
	return s, nil
}

// Addr returns the address on which the store listens.
func (s *StoreProcess) Addr() string { return s.addr }

func (s *StoreProcess) line(line string) {
	body, ok := strings.CutPrefix(line, "report ")
	if !ok {
		return
	}
	var r Report
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		return
	}
	select {
	case s.report(r.ID) <- r:
	default: // a job used the same id twice: the first report counts
	}
}

func (s *StoreProcess) report(id string) chan Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.reports[id]
	if !ok {
		c = make(chan Report, 1)
		s.reports[id] = c
	}
	return c
}

// Report waits for the store's report on the connection whose script has the id. It may be asked for once.
func (s *StoreProcess) Report(ctx context.Context, id string) (Report, error) {
	select {
	case r := <-s.report(id):
		return r, nil
	case <-s.Done():
		return Report{}, s.Failure("ended without a report on " + id)
	case <-ctx.Done():
		return Report{}, fmt.Errorf("oracle: no report on %s: %w", id, ctx.Err())
	}
}
