package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
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

func (a *app) level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(a.logLevel)); err != nil {
		return 0, usagef("--log-level is debug, info, warn or error, not %q", a.logLevel)
	}
	return l, nil
}

// logger writes to standard error: text for people, JSON for programs.
func (a *app) logger() *slog.Logger {
	level, _ := a.level()
	opt := &slog.HandlerOptions{Level: level}
	if f, ok := a.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) && !a.json {
		return slog.New(slog.NewTextHandler(a.err, opt))
	}
	return slog.New(slog.NewJSONHandler(a.err, opt))
}

// print prints a result: as JSON, or as text makes it.
func (a *app) print(v any, text func() string) error {
	if !a.json {
		_, err := fmt.Fprintln(a.out, strings.TrimSuffix(text(), "\n"))
		return err
	}
	return json.NewEncoder(a.out).Encode(v)
}

// ready prints the line that says that a long-running command serves.
func (a *app) ready(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		panic("ebbgate: BUG: ready line: " + err.Error())
	}
	_, _ = fmt.Fprintf(a.out, "ready %s\n", line)
}

// printError prints what went wrong, where, and what to do.
func (a *app) printError(err error) {
	code, hop, advice := "failed", "", ""
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		code = coded.Code()
	}
	var placed interface {
		Hop() string
		Advice() string
	}
	if errors.As(err, &placed) {
		hop, advice = placed.Hop(), placed.Advice()
	}
	if a.json {
		line, _ := json.Marshal(map[string]any{"error": map[string]string{"code": code, "hop": hop, "message": err.Error(), "advice": advice}})
		_, _ = fmt.Fprintf(a.err, "%s\n", line)
		return
	}
	where := ""
	if hop != "" {
		where = hop + ": "
	}
	_, _ = fmt.Fprintf(a.err, "ebbgate: %s%s [%s]\n", where, err, code)
	if advice != "" {
		_, _ = fmt.Fprintf(a.err, "  %s\n", advice)
	}
}
