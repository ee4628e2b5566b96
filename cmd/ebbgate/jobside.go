package main

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/client"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// jobFlags adds what all commands beside a job are told: where the relay is and
// who the job is. config checks it; stdin says whether a token may come from
// standard input.
func (a *app) jobFlags(cmd *cobra.Command, stdin bool) (configure func(title string, log *slog.Logger) (client.Config, *meter, error)) {
	f := cmd.Flags()
	relay := f.String("relay", "", "the relay, or several with commas: HOST[:PORT][,...] (EBBGATE_RELAY)")
	usage := "file with the job's token (EBBGATE_JOB_TOKEN_FILE)"
	if stdin {
		usage = "file with the job's token; - is standard input (EBBGATE_JOB_TOKEN_FILE)"
	}
	token := f.String("token-file", "", usage)
	run := f.String("run", "", "name of the run (default: one of its own)")
	carriers := f.StringSlice("carriers", nil, "what to travel on, in order of preference: quic, tls, wss, ws (default: all, raced)")
	grace := f.Duration("resume-grace", client.DefaultResumeGrace, "how long streams wait for the way to the node to come back; 0: not at all (EBBGATE_RESUME_GRACE)")
	return func(title string, log *slog.Logger) (client.Config, *meter, error) {
		if err := secretFile("token-file", *token); err != nil {
			return client.Config{}, nil, err
		}
		if *token == "-" && !stdin {
			return client.Config{}, nil, usagef("--token-file cannot be standard input here: that is the job's; name a file")
		}
		if *grace < 0 {
			return client.Config{}, nil, usagef("--resume-grace is a time from 0 on, for example 120s")
		}
		wait := time.Duration(0) // as the environment says
		if cmd.Flags().Changed("resume-grace") {
			if wait = *grace; wait == 0 {
				wait = -1
			}
		}
		registry := prometheus.NewRegistry()
		m := &meter{gatherer: registry, title: title}
		return client.Config{
			Relay: *relay, TokenFile: *token, Run: *run, Carriers: *carriers, ResumeGrace: wait, Stdin: a.in,
			Software: software(), Metrics: bundle.NewMetrics(registry), Logger: log,
			Ready: func(r client.Ready) { m.path(title, r.Carrier) },
		}, m, nil
	}
}

// quietLogger is the log of a command whose standard error is the job's, too:
// without --log-level it says only what went wrong.
func (a *app) quietLogger(cmd *cobra.Command) *slog.Logger {
	if !cmd.Flags().Changed("log-level") {
		a.logLevel = "warn"
	}
	return a.logger()
}
