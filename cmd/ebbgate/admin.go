package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/admin"
)

// administrator is a command that speaks to the relay's API.
type administrator struct {
	api, config, tenant string
}

func administrate(cmd *cobra.Command) *administrator {
	t := &administrator{}
	cmd.Flags().StringVar(&t.api, "api", "", "the relay's API: unix:///path/to/admin.sock (EBBGATE_API)")
	cmd.Flags().StringVar(&t.config, "config", "", "relay.yaml, which says where the API's socket is")
	cmd.Flags().StringVar(&t.tenant, "tenant", "default", "the tenant")
	return t
}

// client finds the API: --api, else the state directory of --config, else
// EBBGATE_API, else the default state directory.
func (t *administrator) client() (*admin.Client, error) {
	api := t.api
	if api == "" && t.config == "" {
		api = os.Getenv("EBBGATE_API")
	}
	if api == "" {
		dir := "/var/lib/ebbgate"
		if t.config != "" {
			file, err := config.LoadRelay(config.Options{File: t.config})
			if err != nil {
				return nil, err
			}
			dir = file.State.Dir
		}
		dir, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		api = "unix://" + filepath.ToSlash(filepath.Join(dir, admin.SocketName))
	}
	return admin.Dial(api)
}

// table lays rows out in columns.
func table(rows ...[]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush()
	return b.String()
}

func shortTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func (a *app) gateway() *cobra.Command {
	return a.group("gateway", "Logical gateways and their authentication keys", a.gatewayCreate(), a.gatewayList(), a.gatewayKeys(), a.gatewayRegenerate())
}

func (a *app) gatewayCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create NAME", Short: "Make a gateway", Example: "  ebbgate gateway create corp --config relay.yaml", Args: exactly("NAME")}
	t := administrate(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := t.client()
		if err != nil {
			return err
		}
		g, err := client.CreateGateway(cmd.Context(), t.tenant, args[0])
		if err != nil {
			return err
		}
		return a.print(g, func() string {
			return fmt.Sprintf("made gateway %s; its keys: ebbgate gateway keys %s", g.Name, g.Name)
		})
	}
	return cmd
}

func (a *app) gatewayList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the gateways", Example: "  ebbgate gateway list --config relay.yaml", Args: noArgs}
	t := administrate(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := t.client()
		if err != nil {
			return err
		}
		list, err := client.Gateways(cmd.Context(), t.tenant)
		if err != nil {
			return err
		}
		return a.print(map[string]any{"gateways": list}, func() string {
			rows := [][]string{{"NAME", "NODES", "ONLINE", "CREATED"}}
			for _, g := range list {
				rows = append(rows, []string{g.Name, fmt.Sprint(g.Nodes), fmt.Sprint(g.Online), shortTime(g.Created)})
			}
			return table(rows...)
		})
	}
	return cmd
}

func (a *app) gatewayKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use: "keys NAME", Short: "Show a gateway's authentication keys",
		Long:    "Show a gateway's two authentication keys. Either registers a connector; keep them as you keep passwords.",
		Example: "  ebbgate gateway keys corp --config relay.yaml", Args: exactly("NAME"),
	}
	t := administrate(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := t.client()
		if err != nil {
			return err
		}
		keys, err := client.GatewayKeys(cmd.Context(), t.tenant, args[0])
		if err != nil {
			return err
		}
		return a.print(keys, func() string { return table([]string{"key1", keys.Key1}, []string{"key2", keys.Key2}) })
	}
	return cmd
}

func (a *app) gatewayRegenerate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "regenerate-key NAME key1|key2", Short: "Replace one of a gateway's authentication keys",
		Long:    "Replace one of a gateway's authentication keys. The old one registers nobody any more; nodes that are registered stay.",
		Example: "  ebbgate gateway regenerate-key corp key1 --config relay.yaml", Args: exactly("NAME", "key1|key2"),
	}
	t := administrate(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[1] != "key1" && args[1] != "key2" {
			return usagef("the keys are key1 and key2, not %q", args[1])
		}
		client, err := t.client()
		if err != nil {
			return err
		}
		keys, err := client.RegenerateKey(cmd.Context(), t.tenant, args[0], args[1])
		if err != nil {
			return err
		}
		return a.print(keys, func() string { return keys.Key1 + keys.Key2 })
	}
	return cmd
}

func (a *app) node() *cobra.Command {
	return a.group("node", "The nodes of a gateway", a.nodeList())
}

func (a *app) nodeList() *cobra.Command {
	cmd := &cobra.Command{Use: "list GATEWAY", Short: "List a gateway's nodes and how they are", Example: "  ebbgate node list corp --config relay.yaml", Args: exactly("GATEWAY")}
	t := administrate(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := t.client()
		if err != nil {
			return err
		}
		list, err := client.Nodes(cmd.Context(), t.tenant, args[0])
		if err != nil {
			return err
		}
		return a.print(map[string]any{"nodes": list}, func() string {
			rows := [][]string{{"NAME", "STATUS", "CARRIER", "PROXY", "RTT", "STREAMS", "STORES", "SINCE", "REASON"}}
			for _, n := range list {
				rtt := "-"
				if n.RTT > 0 {
					rtt = fmt.Sprintf("%.1f ms", n.RTT)
				}
				rows = append(rows, []string{n.Name, n.Status, dash(n.Carrier), dash(n.Proxy), rtt, fmt.Sprint(n.Streams), dash(strings.Join(n.Stores, ",")), shortTime(n.Since), dash(n.Reason)})
			}
			return table(rows...)
		})
	}
	return cmd
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

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
