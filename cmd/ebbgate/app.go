package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/config"
)

// app is what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer

	started  bool // a command's own code has begun: errors are no usage errors
	json     bool
	terminal bool // err draws on one

	// of the commands that have no configuration of their own
	logLevel, logFormat string
}

func newApp(in io.Reader, out, err io.Writer) *app { return &app{in: in, out: out, err: err} }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ebbgate",
		Short: "Outbound-only tunnels from firewalled stores to cloud-side jobs",
		Long: `Ebbgate lets cloud-side jobs reach stores behind a firewall that lets nothing in.

A connector inside the network opens outbound tunnels, through the company's
proxy if need be, to a relay; jobs enter at the relay or with ebbgate forward.

Exit codes: 0 done; 1 failed, also where a configuration file is wrong; 2 wrong
usage: the command line itself. ebbgate exec has the command's, and others.`,
		Example: `  ebbgate demo
  ebbgate relay run --init --config relay.yaml
  ebbgate connector register --relay relay.example.com --key-file key --config connector.yaml
  ebbgate forward corp/erp-sql --listen 127.0.0.1:1433`,
		SilenceErrors: true, SilenceUsage: true,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.started = true
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if _, err := config.ParseLog(a.logLevel, a.logFormat); err != nil {
				return usagef("%v", err)
			}
			a.started = true
			return nil
		},
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print for programs")
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "info", "debug, info, warn or error")
	root.PersistentFlags().StringVar(&a.logFormat, "log-format", "auto", "text, json, or auto: text on a terminal, JSON elsewhere")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.AddCommand(a.demo(), a.relay(), a.connector(), a.gateway(), a.node(), a.store(), a.job(), a.activity(), a.certs(), a.forward(), a.exec(), a.dial(), a.version())
	return root
}

// group is a command that only holds others.
func (a *app) group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.Example = commands[0].Example
	c.AddCommand(commands...)
	return c
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  ebbgate version --json", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": versionText(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH}
			return a.print(v, func() string {
				return fmt.Sprintf("ebbgate %s, %s, %s/%s", v["version"], v["go"], v["os"], v["arch"])
			})
		},
	}
}
