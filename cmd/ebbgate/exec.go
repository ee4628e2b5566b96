package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/client"
)

// quietTime is how long streams may rest after the command's end before they are
// broken off.
const quietTime = 10 * time.Second

func (a *app) exec() *cobra.Command {
	cmd := &cobra.Command{
		Use: "exec [--store GATEWAY/STORE[=ADDRESS]]... -- COMMAND [ARG]...", Short: "Run a command that reaches stores",
		Long: `Run a command that reaches stores, encrypted all the way to their nodes. Each
--store is a local port; without an ADDRESS, or with port 0, it is a free one,
which the command finds in EBBGATE_STORE_<STORE>, in capitals and with _ for -,
and in EBBGATE_STORE_<GATEWAY>_<STORE>. Every user of this machine who can
connect to a port reaches its store.

HTTPS_PROXY, HTTP_PROXY and ALL_PROXY name proxies of the command's own, by which
it reaches every store that the job may dial as STORE.GATEWAY or by an alias, and
nothing else: name the hosts that it reaches by itself with --no-proxy.

The command has this process' standard input, output and error and gets its
signals. It is not started where the relay cannot be reached or refuses a store.
The exit code is the command's; 125 where it succeeded but a stream ended badly,
other than by the command's own doing; 126 where it cannot be executed, 127 where
there is none. What each stream did is printed on standard error at the end.`,
		Example: `  ebbgate exec --store corp/pg=127.0.0.1:5432 --relay relay.example.com --token-file token -- pg_dump -h 127.0.0.1 -Fc erp
  ebbgate exec --store corp/pg --summary copy.json -- sh -c 'psql -h ${EBBGATE_STORE_PG%:*} -p ${EBBGATE_STORE_PG#*:} erp'
  ebbgate exec -- curl -O http://files.corp:8080/export.csv`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s wants a command; for example: %s", cmd.CommandPath(), firstExample(cmd))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // the command's own flags are its own
	configure := a.jobFlags(cmd, false)
	stores := f.StringArray("store", nil, "a store and the local address that leads to it, GATEWAY/STORE=127.0.0.1:5432; again for each store")
	proxies := f.Bool("connect", true, "give the command HTTPS_PROXY, HTTP_PROXY and ALL_PROXY")
	direct := f.StringSlice("no-proxy", nil, "hosts that the command reaches by itself, added to NO_PROXY")
	summary := f.String("summary", "", "write the summary as JSON into this file, not to standard error")
	progress := f.String("progress", "auto", "draw a live line on the terminal: always, never, or auto: where the command's output goes elsewhere")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		child := &client.Child{Command: args[0], Args: args[1:], Stdin: a.in, Stdout: a.out, Stderr: a.err}
		e := &execution{app: a, child: child, summaryFile: *summary}
		var err error
		if e.stores, err = parseStores(*stores); err != nil {
			return err
		}
		if err := child.Find(); err != nil {
			return err
		}
		e.live = func(context.Context, *meter) {}
		if wanted, err := a.wantsLive(*progress); err != nil {
			return err
		} else if wanted {
			e.live = a.live()
		}
		e.log = a.quietLogger(cmd)
		child.Logger = e.log
		cfg, m, err := configure("exec", e.log)
		if err != nil {
			return err
		}
		if e.client, err = client.New(cfg); err != nil {
			return err
		}
		e.meter, e.tally = m, client.NewTally(e.client.RunName(), e.log)
		if *proxies {
			if e.doors, err = newDoors(cmd.Context(), e.client, e.tally, e.log); err != nil {
				return err
			}
			child.Env = e.doors.environment(os.Getenv, *direct)
		}
		return e.run(cmd.Context())
	}
	return cmd
}

// wantsLive says whether a live line is drawn: by itself not where the command
// writes to the same terminal.
func (a *app) wantsLive(progress string) (bool, error) {
	switch progress {
	case "always":
		return true, nil
	case "never":
		return false, nil
	case "auto":
		return !isTerminal(a.out), nil
	}
	return false, usagef("--progress is always, never or auto, not %q", progress)
}

// execStore is one --store.
type execStore struct {
	target client.Target
	listen string
}

func parseStores(flags []string) (stores []execStore, err error) {
	for _, flag := range flags {
		name, listen, found := strings.Cut(flag, "=")
		target, err := client.ParseTarget(name)
		if err != nil || found && listen == "" {
			return nil, usagef("--store is GATEWAY/STORE=ADDRESS, for example corp/pg=127.0.0.1:5432, not %q", flag)
		}
		if !found {
			listen = "127.0.0.1:0"
		}
		stores = append(stores, execStore{target, listen})
	}
	return stores, nil
}

// execution is one run of exec.
type execution struct {
	*app
	client      *client.Client
	child       *client.Child
	stores      []execStore
	doors       *doors // nil: the command's proxies are its own affair
	tally       *client.Tally
	meter       *meter
	live        func(context.Context, *meter)
	log         *slog.Logger
	summaryFile string
	open        sync.WaitGroup // doors and forwarders that still let in or carry
}

// run serves the stores, runs the command once they can be reached, and tells
// what happened. What it started is over when it returns.
func (e *execution) run(ctx context.Context) error {
	group, broken := errgroup.WithContext(context.WithoutCancel(ctx))
	session, leave := context.WithCancel(context.WithoutCancel(ctx))
	serving, breakOff := context.WithCancel(session)
	drain := make(chan struct{})
	end := func() error {
		breakOff()
		leave()
		return group.Wait()
	}
	group.Go(func() error { return e.client.Run(session) })
	ready, err := e.serve(ctx, serving, group, drain)
	if err == nil {
		err = e.await(ctx, broken, ready)
	}
	if err != nil {
		if first := end(); first != nil {
			err = first
		}
		return err
	}
	stop := while(serving, func(ctx context.Context) { e.live(ctx, e.meter) })
	exit, err := e.child.Run()
	if err != nil {
		stop()
		_ = end()
		return err
	}
	close(drain)
	e.settle(breakOff)
	stop()
	lost := end()
	if err := e.tell(exit); err != nil {
		return err
	}
	switch {
	case exit != 0:
		return &exitError{code: exit}
	case lost != nil:
		return &exitError{client.ExitBroken, lost}
	case e.tally.Summary().Broken() > 0:
		return &exitError{client.ExitBroken, errors.New("the command succeeded, but not every stream ended well")}
	}
	return nil
}

// serve begins to serve every store and the command's proxies; ready is told of
// each store.
func (e *execution) serve(ctx, serving context.Context, group *errgroup.Group, drain <-chan struct{}) (ready <-chan struct{}, err error) {
	told := make(chan struct{}, len(e.stores))
	listeners, err := e.listen(ctx)
	if err != nil {
		return nil, err
	}
	e.child.Env = append(e.child.Env, storeEnvironment(e.stores, listeners)...)
	for i, s := range e.stores {
		f := &client.Forwarder{
			Client: e.client, Target: s.target, Tally: e.tally, Drain: drain, Logger: e.log,
			Ready: func(client.ForwarderReady) { told <- struct{}{} },
		}
		e.open.Add(1)
		group.Go(func() error {
			defer e.open.Done()
			_, err := f.Run(serving, listeners[i])
			return err
		})
	}
	if e.doors != nil {
		e.open.Add(1)
		group.Go(func() error {
			defer e.open.Done()
			return e.doors.drain(serving, drain)
		})
		e.doors.serve(serving, group)
	}
	return told, nil
}

// listen listens for all stores, or for none.
func (e *execution) listen(ctx context.Context) (listeners []*net.TCPListener, err error) {
	for _, s := range e.stores {
		ln, err := client.Listen(ctx, s.listen)
		if err != nil {
			for _, ln := range listeners {
				_ = ln.Close()
			}
			if e.doors != nil {
				e.doors.close()
			}
			return nil, err
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

// await waits until the relay is reached and has agreed to every store.
func (e *execution) await(ctx, broken context.Context, ready <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(broken, cancel)()
	if err := e.client.Await(ctx); err != nil {
		return err
	}
	for range e.stores {
		select {
		case <-ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// settle waits until what the command began is over, as long as it moves or waits
// for a lane, which has its own bound.
func (e *execution) settle(breakOff func()) {
	over := make(chan struct{})
	defer while(context.Background(), func(context.Context) {
		e.open.Wait()
		close(over)
	})()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := e.meter.read()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		now := e.meter.read()
		if now.total() != last.total() || now.streams > 0 && now.lanes == 0 {
			last = now
		}
		if now.at.Sub(last.at) > quietTime {
			e.log.Warn("streams that rest are broken off", "streams", now.streams)
			breakOff()
			return
		}
	}
}

// storeEnvironment tells the command where the stores are. Where two gateways
// have a store of one name, only the names with the gateway are given.
func storeEnvironment(stores []execStore, listeners []*net.TCPListener) (env []string) {
	variable := func(names ...string) string {
		return "EBBGATE_STORE_" + strings.ToUpper(strings.ReplaceAll(strings.Join(names, "_"), "-", "_"))
	}
	count := make(map[string]int)
	for _, s := range stores {
		count[variable(s.target.Store)]++
	}
	for i, s := range stores {
		addr := listeners[i].Addr().String()
		if short := variable(s.target.Store); count[short] == 1 {
			env = append(env, short+"="+addr)
		}
		env = append(env, variable(s.target.Gateway, s.target.Store)+"="+addr)
	}
	return env
}

// execSummary is what exec prints at its end.
type execSummary struct {
	Exit int `json:"exit"` // of the command
	client.Summary
}

// tell prints the summary, or writes it where it shall be.
func (e *execution) tell(exit int) error {
	s := execSummary{exit, e.tally.Summary()}
	if e.summaryFile != "" {
		if err := writeJSON(e.summaryFile, s); err != nil {
			return &exitError{max(exit, 1), fmt.Errorf("the summary cannot be written: %w", err)}
		}
		if !e.json {
			return nil
		}
	}
	return e.printTo(e.err, s, func() string { return streamsText(s.Summary) })
}
