package main

import (
	"context"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/client"
)

func (a *app) dial() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dial GATEWAY/STORE", Short: "Connect standard input and output to a store",
		Long: `Connect standard input and output to a store, encrypted all the way to the node:
what ssh calls a ProxyCommand. The end of the input ends the direction to the
store, the store's end closes the output.

  ssh -o 'ProxyCommand=ebbgate dial corp/files-ssh' files.corp

The exit code is 0 only if both directions ended well and every byte was
delivered. A pipe cannot be reset: whoever reads one must look at the exit code.
With --json, what the stream did is printed on standard error.`,
		Example: `  ebbgate dial corp/files-ssh --relay relay.example.com --token-file token
  EBBGATE_RELAY=relay.example.com EBBGATE_JOB_TOKEN_FILE=token ebbgate dial corp/files-ssh`,
		Args: exactly("GATEWAY/STORE"),
	}
	configure := a.jobFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := client.ParseTarget(args[0]); err != nil {
			return usagef("%q is not GATEWAY/STORE, for example corp/erp-sql", args[0])
		}
		log := a.quietLogger(cmd)
		cfg, _, err := configure(args[0], log)
		if err != nil {
			return err
		}
		signal.Ignore(syscall.SIGPIPE) // a reader of the output that is gone resets the stream
		dialer := &client.Dialer{Relay: cfg.Relay, TokenFile: cfg.TokenFile, Run: cfg.Run, Carriers: cfg.Carriers, Software: cfg.Software, Logger: log}
		report, err := a.stdio(cmd.Context(), dialer, args[0])
		if closed := dialer.Close(); err == nil {
			err = closed
		}
		if report != nil && a.json {
			_ = a.printTo(a.err, report, nil)
		}
		return err
	}
	return cmd
}

// stdio carries one stream; there is no report where there was no stream.
func (a *app) stdio(ctx context.Context, dialer *client.Dialer, target string) (*client.Report, error) {
	conn, err := dialer.Open(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	out, ok := a.out.(io.WriteCloser)
	if !ok {
		out = noClose{a.out}
	}
	err = client.Stdio(ctx, conn, a.in, out)
	report := conn.Report()
	return &report, err
}

// noClose is an output that others close.
type noClose struct{ io.Writer }

func (noClose) Close() error { return nil }
