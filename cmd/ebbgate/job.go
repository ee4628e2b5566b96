package main

import (
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) job() *cobra.Command {
	return a.group("job", "Cloud-side jobs and what they may dial", a.jobCreate(), a.jobList(), a.jobRevoke())
}

func (a *app) jobCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME --allow GATEWAY/STORE,...", Short: "Make a job; prints its token once",
		Example: `  ebbgate job create nightly-copy --allow corp/erp-sql,corp/files --config relay.yaml
  ebbgate job create lab --allow 'lab/*' --config relay.yaml`,
		Args: exactly("NAME"),
	}
	t := administrate(cmd)
	allow := cmd.Flags().StringSlice("allow", nil, "stores that it may dial: GATEWAY/STORE, or GATEWAY/* for all of a gateway")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(*allow) == 0 {
			return usagef("--allow GATEWAY/STORE says what the job may dial")
		}
		client, err := t.client()
		if err != nil {
			return err
		}
		job, err := client.CreateJob(cmd.Context(), t.tenant, args[0], *allow)
		if err != nil {
			return err
		}
		return a.print(job, func() string { return job.Token })
	}
	return cmd
}

func (a *app) jobList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the jobs", Example: "  ebbgate job list --config relay.yaml", Args: noArgs}
	t := administrate(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := t.client()
		if err != nil {
			return err
		}
		list, err := client.Jobs(cmd.Context(), t.tenant)
		if err != nil {
			return err
		}
		return a.print(map[string]any{"jobs": list}, func() string {
			rows := [][]string{{"NAME", "ALLOW", "CREATED", "STATE"}}
			for _, j := range list {
				state := "valid"
				if j.Revoked {
					state = "revoked"
				}
				rows = append(rows, []string{j.Name, strings.Join(j.Allow, ","), shortTime(j.Created), state})
			}
			return table(rows...)
		})
	}
	return cmd
}

func (a *app) jobRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke NAME", Short: "End a job: its token is refused, its streams are reset",
		Example: "  ebbgate job revoke nightly-copy --config relay.yaml", Args: exactly("NAME"),
	}
	t := administrate(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := t.client()
		if err != nil {
			return err
		}
		if err := client.RevokeJob(cmd.Context(), t.tenant, args[0]); err != nil {
			return err
		}
		return a.print(map[string]string{"revoked": args[0]}, func() string { return "revoked " + args[0] })
	}
	return cmd
}
