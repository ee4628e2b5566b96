package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

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
