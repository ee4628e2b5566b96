package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay"
	"github.com/ebbgate/ebbgate/relay/state"
)

func (a *app) relay() *cobra.Command {
	return a.group("relay", "The cloud side", a.relayRun(), a.relayInit())
}

// relayConfig adds --config and a flag for each key.
func relayConfig(cmd *cobra.Command) (load func() (*config.Relay, error)) {
	_, load = relayFile(cmd)
	return load
}

// relayFile is the same for a command that wants the file's path, too.
func relayFile(cmd *cobra.Command) (file *string, load func() (*config.Relay, error)) {
	file = cmd.Flags().String("config", "", "relay.yaml")
	config.RelayFlags(cmd.Flags())
	return file, func() (*config.Relay, error) {
		return config.LoadRelay(config.Options{File: *file, Flags: cmd.Flags()})
	}
}

func (a *app) relayInit() *cobra.Command {
	cmd := &cobra.Command{
		Use: "init", Short: "Make the relay's state and its CA, once",
		Example: "  ebbgate relay init --config relay.yaml", Args: noArgs,
	}
	load := relayConfig(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := load()
		if err != nil {
			return err
		}
		logger, _ := a.log(file.Log)
		opt := state.Options{Dir: file.State.Dir, KeyFile: file.State.KeyFile, Postgres: file.State.Postgres, Logger: logger}
		if err := state.Init(cmd.Context(), opt); err != nil {
			return err
		}
		made := map[string]string{"dir": file.State.Dir, "key_file": file.State.KeyFile}
		if file.State.Postgres.Set() {
			made["postgres"] = file.State.Postgres.String()
		}
		return a.print(made, func() string {
			if file.State.Postgres.Set() {
				return "the relay's state is in " + file.State.Postgres.String() + ", its key and marker in " + file.State.Dir +
					"\nevery other relay needs a copy of " + file.State.KeyFile + "; back it up apart from the database: without it the state cannot be read"
			}
			return "made the relay's state in " + file.State.Dir + "\nback up " + file.State.KeyFile + " apart from it: without it the state cannot be read"
		})
	}
	return cmd
}

func (a *app) relayRun() *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Serve connectors, clients and jobs",
		Long: `Serve connectors, clients and jobs until SIGTERM or SIGINT. Then new dials are
refused and open streams go on for at most --drain-timeout; a second signal ends
the process at once.

The configuration is read again when its file or a file that it names changes, and
on SIGHUP: ingress, tls and log.level are taken over, no stream ends by that. One
that is wrong is refused, and the one before stays in force.

Prints one line "ready {json}" with the bound addresses when it serves.`,
		Example: `  ebbgate relay run --config relay.yaml
  ebbgate relay run --init --hostname 127.0.0.1 --listen-tls 127.0.0.1:0 --listen-http= --state-dir /tmp/relay`,
		Args: noArgs,
	}
	path, load := relayFile(cmd)
	init := cmd.Flags().Bool("init", false, "make the state first where nothing was ever made")
	drain := cmd.Flags().Duration("drain-timeout", 30*time.Second, "how long open streams may go on after SIGTERM")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *drain < 0 {
			return usagef("--drain-timeout is 0 or more, for example 30s, not %v", *drain)
		}
		file, err := load()
		if err != nil {
			return err
		}
		logger, level := a.log(file.Log)
		hangup := make(chan os.Signal, 1)
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
		r, err := relay.New(relay.Config{
			File: file, Path: *path, Reload: load, Hangup: hangup, Level: level, Init: *init, DrainTimeout: *drain, Software: software(), Logger: logger,
			Ready: func(at relay.Ready) { a.ready(at) },
		})
		if err != nil {
			return err
		}
		return r.Run(cmd.Context())
	}
	return cmd
}
