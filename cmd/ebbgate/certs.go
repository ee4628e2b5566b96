package main

import (
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) certs() *cobra.Command {
	return a.group("certs", "The relay's CA", a.certsStatus())
}

func (a *app) certsStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show the generations of the relay's CA",
		Long: `Show the generations of the relay's CA, oldest first, and which one signs.

With --pem, print their certificates and nothing else: for jobs' programs that reach
an ingress with TLS whose certificate that CA made, as with curl --proxy-cacert.
Connectors and clients need no such file.`,
		Example: `  ebbgate certs status --config relay.yaml
  ebbgate certs status --pem --config relay.yaml`,
		Args: noArgs,
	}
	t := administrate(cmd)
	pem := cmd.Flags().Bool("pem", false, "print the certificates, PEM")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := t.client()
		if err != nil {
			return err
		}
		list, err := client.Authorities(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(map[string]any{"authorities": list}, func() string {
			certificates, rows := "", [][]string{{"GENERATION", "SIGNS", "FROM", "UNTIL"}}
			for _, ca := range list {
				signs := "-"
				if ca.Signs {
					signs = "yes"
				}
				certificates += ca.Certificate
				rows = append(rows, []string{strconv.Itoa(ca.Generation), signs, shortTime(ca.From), shortTime(ca.Until)})
			}
			if *pem {
				return certificates
			}
			return table(rows...)
		})
	}
	return cmd
}
