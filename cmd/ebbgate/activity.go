package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/relay/admin"
)

func (a *app) activity() *cobra.Command {
	return a.group("activity", "What jobs' runs did", a.activityList())
}

// listed is the most runs that are listed unless more are asked for.
const listed = 1000

func (a *app) activityList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List what runs did, newest first",
		Long: `List what runs did: one row for each run of a job, store and node, the one first
whose last stream ended last. Streams count when they are over; dials that were
refused are no streams, and counted by themselves.

RESULT is that of the worst stream of the run:
  complete  both directions ended well, with the right length and digest
  failed    the stream was reset, or a dial refused; REASON says why
  lost      one end vanished, and has not said what it knows
  differs   both ends say that all is well, and their numbers are not the same`,
		Example: `  ebbgate activity list --config relay.yaml
  ebbgate activity list --job nightly-copy --since 24h --config relay.yaml
  ebbgate activity list --gateway corp --since 2026-01-31T00:00:00Z --json --config relay.yaml`,
		Args: noArgs,
	}
	t := administrate(cmd)
	var q admin.ActivityQuery
	cmd.Flags().StringVar(&q.Gateway, "gateway", "", "only this gateway's")
	cmd.Flags().StringVar(&q.Node, "node", "", "only this node's: NODE or GATEWAY/NODE")
	cmd.Flags().StringVar(&q.Job, "job", "", "only this job's")
	since := cmd.Flags().String("since", "", "only runs that ended since: so long ago (90m, 24h, 7d) or a time (2026-01-31T00:00:00Z)")
	limit := cmd.Flags().Int("limit", listed, "at most so many runs")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if q.Since, err = parseSince(*since, time.Now()); err != nil {
			return err
		}
		if *limit < 1 {
			return usagef("--limit is 1 or more, not %d", *limit)
		}
		if gateway, node, found := strings.Cut(q.Node, "/"); found {
			if q.Gateway != "" && q.Gateway != gateway {
				return usagef("--node %s is not of gateway %s", q.Node, q.Gateway)
			}
			q.Gateway, q.Node = gateway, node
		}
		client, err := t.client()
		if err != nil {
			return err
		}
		list := admin.Activity{Runs: []admin.Run{}}
		for len(list.Runs) < *limit {
			q.Limit = *limit - len(list.Runs)
			page, err := client.Activity(cmd.Context(), t.tenant, q)
			if err != nil {
				return err
			}
			list.Runs = append(list.Runs, page.Runs...)
			if list.Next, q.After = page.Next, page.Next; page.Next == "" {
				break
			}
		}
		return a.print(list, func() string { return activityTable(list) })
	}
	return cmd
}

// parseSince reads a time, or how long before now it was; the zero time for none.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	length := text
	days := 0
	if before, after, found := strings.Cut(text, "d"); found {
		var err error
		if days, err = strconv.Atoi(before); err != nil || days < 0 || days > 36500 {
			return time.Time{}, sinceError(text)
		}
		length = "0s" + after
	}
	d, err := time.ParseDuration(length)
	if err != nil || d < 0 {
		return time.Time{}, sinceError(text)
	}
	return now.AddDate(0, 0, -days).Add(-d), nil
}

func sinceError(text string) error {
	return usagef("--since is a length of time as in 90m, 24h or 7d, or a time as in 2026-01-31T00:00:00Z, not %.40q", text)
}

func activityTable(list admin.Activity) string {
	rows := [][]string{{"END", "JOB", "RUN", "STORE", "NODE", "STREAMS", "REFUSED", "READ", "WRITTEN", "RESUMES", "RESULT", "REASON"}}
	for _, u := range list.Runs {
		reason := u.Reason
		if u.Result == "complete" {
			reason = "-"
		} else if u.Hop != "" {
			reason += " (" + u.Hop + ")"
		}
		rows = append(rows, []string{
			shortTime(u.End), u.Job, shorten(u.Run), dash(strings.Trim(u.Gateway+"/"+u.Store, "/")), dash(u.Node), strconv.FormatInt(u.Streams, 10), strconv.FormatInt(u.Refused, 10),
			decimal(float64(u.BytesRead)), decimal(float64(u.BytesWritten)), strconv.FormatInt(u.Resumes, 10), u.Result, reason,
		})
	}
	text := table(rows...)
	for _, u := range list.Runs {
		for _, d := range u.Differences {
			text += fmt.Sprintf("\nstream %s of run %s: the ingress says %d bytes read (%s) and %d written (%s), the node %d (%s) and %d (%s)\n",
				d.UUID, u.Run, d.Ingress.BytesRead, d.Ingress.ReadCRC32C, d.Ingress.BytesWritten, d.Ingress.WrittenCRC32C,
				d.Node.BytesRead, d.Node.ReadCRC32C, d.Node.BytesWritten, d.Node.WrittenCRC32C)
		}
	}
	if list.Next != "" {
		text += "\nolder runs are left out: see --since, --job, --node and --limit\n"
	}
	return text
}

// maxRunShown bounds a run's name in a table, in characters: a UUID fits.
const maxRunShown = 36

func shorten(s string) string {
	if r := []rune(s); len(r) > maxRunShown {
		return string(r[:maxRunShown-1]) + "…"
	}
	return dash(s)
}
