package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

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
