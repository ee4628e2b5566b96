package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/connector"
)

func (a *app) connector() *cobra.Command {
	return a.group("connector", "The side inside the company network", a.connectorRegister(), a.connectorRun(), a.connectorStatus(), a.connectorReload())
}

// connectorConfig adds --config and a flag for each key but those that the
// command has for itself.
func connectorConfig(cmd *cobra.Command) (load func() (*config.Connector, error)) {
	_, load = connectorFile(cmd)
	return load
}

// connectorFile is the same for a command that wants the file's path, too.
func connectorFile(cmd *cobra.Command) (file *string, load func() (*config.Connector, error)) {
	file = cmd.Flags().String("config", "", "connector.yaml")
	config.ConnectorFlags(cmd.Flags())
	return file, func() (*config.Connector, error) {
		return config.LoadConnector(config.Options{File: *file, Flags: cmd.Flags()})
	}
}

func (a *app) connectorRegister() *cobra.Command {
	cmd := &cobra.Command{
		Use: "register --relay HOST[:PORT][,...] --key-file FILE", Short: "Make this machine a node of a gateway, once",
		Long: `Make this machine a node of a gateway. The authentication key, which ebbgate
gateway keys NAME prints at the relay, comes from a file or, with "-", from
standard input. The registration and the node's own key, which never leaves this
machine, are written into the state directory.`,
		Example: `  ebbgate connector register --relay relay.example.com --key-file key --config connector.yaml
  ebbgate connector register --relay relay.example.com:8443 --key-file - --name db-east-1 --config connector.yaml < key`,
		Args: noArgs,
	}
	load := connectorConfig(cmd)
	keyFile := cmd.Flags().String("key-file", "", "file with the authentication key; - is standard input")
	name := cmd.Flags().String("name", "", "the node's name (default: this machine's)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *keyFile == "" {
			return usagef("--key-file says where the authentication key is; - is standard input")
		}
		if err := secretFile("key-file", *keyFile); err != nil {
			return err
		}
		file, err := load()
		if err != nil {
			return err
		}
		logger, _ := a.log(file.Log)
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Minute)
		defer cancel()
		r, err := connector.Register(ctx, connector.Options{
			File: file, KeyFile: *keyFile, Stdin: a.in, Name: *name, Software: software(), Logger: logger,
		})
		if err != nil {
			return err
		}
		return a.print(r, func() string {
			return fmt.Sprintf("registered as node %s of gateway %s at %s, over %s; start it with ebbgate connector run", r.Node, r.Gateway, r.Relay, r.Carrier)
		})
	}
	return cmd
}

func (a *app) connectorRun() *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Serve this node's stores",
		Long: `Serve this node's stores until SIGTERM or SIGINT. Prints one line "ready {json}"
when the first session to the relay is up.

The configuration is read again when its file changes, on SIGHUP, and by ebbgate
connector reload; no stream ends by that. One that is wrong is refused, and the
one before stays in force.`,
		Example: "  ebbgate connector run --config connector.yaml", Args: noArgs,
	}
	path, load := connectorFile(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := load()
		if err != nil {
			return err
		}
		live := a.live()
		registry := prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		m := &meter{gatherer: registry, node: true, title: "connector"}
		logger, level := a.log(file.Log)
		hangup := make(chan os.Signal, 1)
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
		c, err := connector.New(connector.Config{
			File: file, Path: *path, Reload: load, Hangup: hangup, Level: level,
			Software: software(), Logger: logger, Registry: registry,
			Ready: func(r connector.Ready) {
				m.path(nodeName(r.Node), r.Carrier)
				a.ready(r)
			},
		})
		if err != nil {
			return err
		}
		defer while(cmd.Context(), func(ctx context.Context) { live(ctx, m) })()
		return c.Run(cmd.Context())
	}
	return cmd
}

// nodeName is GATEWAY/NODE of an identity.
func nodeName(identity string) string {
	id, err := certs.ParseIdentity(identity)
	if err != nil {
		return identity
	}
	return id.Gateway + "/" + id.Name
}

func (a *app) connectorReload() *cobra.Command {
	cmd := &cobra.Command{
		Use: "reload", Short: "Have the connector that runs here read its configuration again",
		Long: `Have the connector that runs on this machine read its configuration again, as a
changed file and SIGHUP do, and print what changed. Streams that are open go on,
those of a store that is gone, too.

A configuration that is wrong is refused with its file, line and key, the one
before stays in force, and the exit code is 1. After a change of relay, carriers
or proxy a new session takes the place of the old one when it is up; streams go
on over it. state_dir, resume_grace and log.format need a restart.

The connector reads the file that it was started with; --config or --state-dir
only says where it runs.`,
		Example: `  ebbgate connector reload --config connector.yaml
  ebbgate connector reload --state-dir /var/lib/ebbgate-connector --json`,
		Args: noArgs,
	}
	load := connectorConfig(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir := cmd.Flags().Lookup("state-dir").Value.String()
		if dir == "" { // else the file, which may be wrong, is not needed
			file, err := load()
			if err != nil {
				return err
			}
			dir = file.StateDir
		}
		c, err := connector.Reload(cmd.Context(), dir)
		if err != nil {
			return err
		}
		return a.print(c, c.Text)
	}
	return cmd
}

func (a *app) connectorStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show how the connector that runs here is", Example: "  ebbgate connector status --config connector.yaml", Args: noArgs}
	load := connectorConfig(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := load()
		if err != nil {
			return err
		}
		r, err := connector.Status(cmd.Context(), file.StateDir)
		if err != nil {
			return err
		}
		return a.print(r, func() string { return statusText(r) })
	}
	return cmd
}

// relayText is one relay in a line.
func relayText(p connector.RelayReport) string {
	switch {
	case p.Online:
		return fmt.Sprintf("%s over %s, round trip %.1f ms", p.Relay, p.Carrier, p.RTTMillis)
	case p.LastError != nil:
		return fmt.Sprintf("%s offline: %s: %s", p.Relay, p.LastError.Hop, strings.ReplaceAll(p.LastError.Message, "\n", "; "))
	}
	return p.Relay + " offline"
}

func statusText(r *connector.Report) string {
	state := "offline"
	if r.Online {
		state = "online"
	}
	rows := [][]string{
		{"node", r.Node},
		{"state", state + " since " + shortTime(r.Since)},
		{"carrier", dash(r.Carrier)},
		{"proxy", dash(strings.TrimSpace(r.Proxy + " " + r.ProxyAuth))},
		{"round trip", strconv.FormatFloat(r.RTTMillis, 'f', 1, 64) + " ms"},
		{"certificate", "until " + shortTime(r.CertificateExpires)},
		{"streams", fmt.Sprintf("%d in %d runs", r.Streams, r.Runs)},
		{"configuration", dash(r.Config.File) + " of " + shortTime(r.Config.Loaded)},
	}
	if e := r.Config.Error; e != nil {
		rows = append(rows, []string{"", shortTime(e.Time) + " refused, the one before is in force: " + strings.ReplaceAll(e.Message, "\n", "; ")}, []string{"", e.Advice})
	}
	if len(r.Config.Restart) > 0 {
		rows = append(rows, []string{"", "a restart is needed for " + strings.Join(r.Config.Restart, ", ")})
	}
	if r.Config.Moving {
		rows = append(rows, []string{"", "the session uses the way before, and moves when the new one works (with resume_grace 0: and no stream is open)"})
	}
	for _, p := range r.Relays {
		rows = append(rows, []string{"relay", relayText(p)})
	}
	for _, s := range r.Sessions {
		rows = append(rows, []string{"session", fmt.Sprintf("%s over %s to %s since %s", s.Role, s.Carrier, s.Remote, shortTime(s.Since))})
	}
	for _, s := range r.Stores {
		rows = append(rows, []string{"store", s.Name + " = " + s.Address})
	}
	if e := r.LastError; e != nil {
		rows = append(rows, []string{"last error", fmt.Sprintf("%s %s: %s", shortTime(e.Time), e.Hop, e.Message)}, []string{"", e.Advice})
	}
	return table(rows...)
}
