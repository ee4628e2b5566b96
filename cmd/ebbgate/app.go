package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// app is what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer

	started  bool // a command's own code has begun: errors are no usage errors
	json     bool
	logLevel string
}

func newApp(in io.Reader, out, err io.Writer) *app { return &app{in: in, out: out, err: err} }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ebbgate",
		Short: "Outbound-only tunnels from firewalled stores to cloud-side jobs",
		Long: `Ebbgate lets cloud-side jobs reach stores behind a firewall that lets nothing in.

A connector inside the network opens outbound tunnels, through the company's
proxy if need be, to a relay; jobs enter at the relay or with ebbgate forward.`,
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
			if _, err := a.level(); err != nil {
				return err
			}
			a.started = true
			return nil
		},
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print for programs")
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "info", "debug, info, warn or error")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.AddCommand(a.demo(), a.relay(), a.connector(), a.gateway(), a.node(), a.job(), a.forward(), a.version())
	return root
}

// noArgs refuses arguments, and for groups names the commands that there are.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	if len(known) > 0 {
		return usagef("%s has no command %q; it has %s", cmd.CommandPath(), args[0], strings.Join(known, ", "))
	}
	return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args[0])
}

// exactly wants so many arguments, and names them.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usagef("%s wants %s, got %d arguments; for example:\n%s", cmd.CommandPath(), strings.Join(names, " "), len(args), cmd.Example)
		}
		return nil
	}
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
		Use: "version", Short: "Print the version", Example: "  ebbgate version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.print(map[string]string{"version": versionText()}, func() string { return "ebbgate " + versionText() })
		},
	}
}
