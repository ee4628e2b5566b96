package main

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/client"
)

func (a *app) forward() *cobra.Command {
	cmd := &cobra.Command{
		Use: "forward GATEWAY/STORE --listen ADDRESS", Short: "Put a local port in front of a store",
		Long: `Put a local port in front of a store, encrypted all the way to the node. Whoever
can connect to the port reaches the store: nobody is asked for a token there.

A connection whose stream does not end well is reset, never closed: what reads
end of file has read everything that the store sent. A summary is printed at the
end.`,
		Example: `  ebbgate forward corp/erp-sql --listen 127.0.0.1:1433 --relay relay.example.com --token-file token
  EBBGATE_RELAY=relay.example.com EBBGATE_JOB_TOKEN_FILE=token ebbgate forward corp/pg --listen 127.0.0.1:5432`,
		Args: exactly("GATEWAY/STORE"),
	}
	f := cmd.Flags()
	listen := f.String("listen", "", "address to listen on, for example 127.0.0.1:1433; port 0 takes a free one")
	configure := a.jobFlags(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		target, err := client.ParseTarget(args[0])
		if err != nil {
			return usagef("%q is not GATEWAY/STORE, for example corp/erp-sql", args[0])
		}
		if *listen == "" {
			return usagef("--listen says where, for example --listen 127.0.0.1:1433")
		}
		live := a.live()
		log := a.logger()
		cfg, m, err := configure(target.String(), log)
		if err != nil {
			return err
		}
		c, err := client.New(cfg)
		if err != nil {
			return err
		}
		ln, err := client.Listen(cmd.Context(), *listen)
		if err != nil {
			return err
		}
		forwarder := &client.Forwarder{Client: c, Target: target, Logger: log, Tally: client.NewTally(c.RunName(), log), Ready: func(r client.ForwarderReady) { a.ready(r) }}
		stop := while(cmd.Context(), func(ctx context.Context) { live(ctx, m) })
		summary, err := runForwarder(cmd.Context(), forwarder, ln)
		stop()
		if err != nil && summary.Streams == 0 {
			return err
		}
		return errors.Join(err, a.print(summary, func() string { return streamsText(summary) }))
	}
	return cmd
}

// while runs a task beside what the caller does, until stop, which waits for it.
func while(ctx context.Context, task func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { task(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// runForwarder runs a forwarder and its client until ctx ends or one of them
// fails. The session outlives the forwarder, so that its streams' ends still
// reach their nodes.
func runForwarder(ctx context.Context, f *client.Forwarder, ln *net.TCPListener) (summary client.Summary, err error) {
	group, forwarding := errgroup.WithContext(ctx)
	session, stop := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return f.Client.Run(session) })
	group.Go(func() (err error) {
		defer stop()
		summary, err = f.Run(forwarding, ln)
		return err
	})
	err = group.Wait()
	return summary, err
}
