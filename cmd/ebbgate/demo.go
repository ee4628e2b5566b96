package main

import (
	"github.com/spf13/cobra"

	"github.com/ebbgate/ebbgate/demo"
)

func (a *app) demo() *cobra.Command {
	cmd := &cobra.Command{
		Use: "demo", Short: "The whole path on this machine, without privileges",
		Long: `Start a relay, a corporate proxy that demands NTLM, a connector whose only way
out it is, an object store, and a job that copies a file out of the store and
another into it. Both ends' SHA-256 are compared. Nothing is left behind.`,
		Example: "  ebbgate demo\n  ebbgate demo --file backup.tar --json", Args: noArgs,
	}
	file := cmd.Flags().String("file", "", "file to copy (default: 256 MiB of random bytes)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return demo.Run(cmd.Context(), demo.Options{File: *file, JSON: a.json, Stdout: a.out})
	}
	return cmd
}
