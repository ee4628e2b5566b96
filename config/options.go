package config

import (
	"net"
	"net/netip"
	"reflect"
	"strings"

	"github.com/spf13/pflag"
)

// Options says where configuration comes from.
type Options struct {
	// File is a path; empty: environment and flags only.
	File string
	// Flags were registered by [RelayFlags] or [ConnectorFlags]; nil: none.
	Flags *pflag.FlagSet
	// Environment is in the form of os.Environ; nil: os.Environ().
	Environment []string
}

// RelayFlags adds a flag for each key of relay.yaml that is one value or a
// list of them.
func RelayFlags(fs *pflag.FlagSet) { addFlags(fs, rawRelay{}) }

// ConnectorFlags does the same for connector.yaml.
func ConnectorFlags(fs *pflag.FlagSet) { addFlags(fs, rawConnector{}) }

func addFlags(fs *pflag.FlagSet, raw any) {
	for _, k := range keysOf(raw) {
		switch {
		case k.usage == "":
		case k.list:
			fs.StringSlice(k.flag(), nil, k.usage)
		default:
			fs.String(k.flag(), "", k.usage)
			if k.typ.Kind() == reflect.Bool {
				fs.Lookup(k.flag()).NoOptDefVal = "true"
			}
		}
	}
}

// Listen is a checked host:port to listen on; the host may be empty (all
// addresses) and the port 0 (any free one). The empty Listen listens nowhere.
type Listen string

// String is what net.Listen takes.
func (l Listen) String() string { return string(l) }

// loopback tells whether only this machine can reach it.
func (l Listen) loopback() bool {
	host, _, err := net.SplitHostPort(string(l))
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
