package main

import (
	"os"
	"path/filepath"

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
