package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/relay/admin"
)

func (a *app) store() *cobra.Command {
	return a.group("store", "The stores that nodes reach", a.storeTest())
}

func (a *app) storeTest() *cobra.Command {
	cmd := &cobra.Command{
		Use: "test GATEWAY/STORE", Short: "Dial a store through its nodes and say which hop fails",
		Long: `Have every node of the gateway that is online and has the store dial it, and
print what happened hop by hop: the relay's session, the node, the name, the
addresses that the node's policy allows, the TCP connection to each address, and
whether the store keeps the connection. Nothing is sent to the store.

The exit code is 0 if every hop went well at every node, else 1.`,
		Example: `  ebbgate store test corp/erp-sql --config relay.yaml
  ebbgate store test corp/erp-sql --node db-east-1 --config relay.yaml --json`,
		Args: exactly("GATEWAY/STORE"),
	}
	t := administrate(cmd)
	node := cmd.Flags().String("node", "", "only this node (default: all that have the store)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		gateway, store, ok := strings.Cut(args[0], "/")
		if !ok || gateway == "" || store == "" || strings.Contains(store, "/") {
			return usagef("%q is not GATEWAY/STORE; for example: %s", args[0], firstExample(cmd))
		}
		client, err := t.client()
		if err != nil {
			return err
		}
		result, err := client.TestStore(cmd.Context(), t.tenant, gateway, store, *node)
		if err != nil {
			return err
		}
		if err := a.print(result, func() string { return storeTestText(result) }); err != nil {
			return err
		}
		return storeTestFailed(result)
	}
	return cmd
}

func storeTestText(t admin.StoreTest) string {
	var b strings.Builder
	for _, n := range t.Nodes {
		fmt.Fprintf(&b, "node %s\n", n.Node)
		var rows [][]string
		for _, h := range n.Hops {
			outcome, took := "ok", ""
			if !h.OK {
				outcome = "FAILS"
			}
			if h.Millis > 0 {
				took = fmt.Sprintf("%.1f ms", h.Millis)
			}
			rows = append(rows, []string{"  " + h.Name, outcome, took, h.Detail})
			if h.Advice != "" {
				rows = append(rows, []string{"", "", "", h.Advice})
			}
		}
		b.WriteString(table(rows...))
	}
	return b.String()
}

// storeTestError is a store that some node does not reach.
type storeTestError struct {
	store string
	node  string
	hop   admin.Hop
}

// storeTestFailed is the first failure of a test, as an error; nil: there is none.
func storeTestFailed(t admin.StoreTest) error {
	for _, n := range t.Nodes {
		for _, h := range n.Hops {
			if !h.OK {
				return &storeTestError{t.Gateway + "/" + t.Store, n.Node, h}
			}
		}
	}
	return nil
}

func (e *storeTestError) Error() string {
	return fmt.Sprintf("%s through node %s: %s: %s", e.store, e.node, e.hop.Name, e.hop.Detail)
}

// Code names the error.
func (e *storeTestError) Code() string { return "store-test-failed" }

// Hop is where it happened: what is behind the node is the store.
func (e *storeTestError) Hop() string {
	switch e.hop.Name {
	case "relay", "node", "dns", "tcp":
		return e.hop.Name
	}
	return "store"
}

// Advice says what to do.
func (e *storeTestError) Advice() string { return e.hop.Advice }
