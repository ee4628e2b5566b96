package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commands lists the tree but for what cobra adds.
func commands() []*cobra.Command {
	var all []*cobra.Command
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		all = append(all, c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newApp(nil, nil, nil).root())
	return all
}

// TestHelp: every command says what it is, and its example is a command line
// that it takes.
func TestHelp(t *testing.T) {
	if n := len(commands()); n < 18 {
		t.Fatalf("found %d commands", n)
	}
	for _, c := range commands() {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for line := range strings.Lines(c.Example) {
			_, line, _ = strings.Cut(line, "ebbgate ")
			line, _, _ = strings.Cut(line, " < ")
			example(t, strings.Fields(strings.ReplaceAll(line, "'", "")))
		}
	}
}

func example(t *testing.T, args []string) {
	t.Helper()
	root := newApp(nil, nil, nil).root()
	c, rest, err := root.Find(args)
	if err != nil || c == root {
		t.Errorf("%q: %v", args, err)
		return
	}
	if err := c.ParseFlags(rest); err != nil {
		t.Errorf("%q: %v", args, err)
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		t.Errorf("%q: %v", args, err)
	}
}

// TestFlags: what the design names is there, and every flag says what it does.
func TestFlags(t *testing.T) {
	want := map[string]string{
		"ebbgate demo":                   "file",
		"ebbgate relay init":             "config",
		"ebbgate relay run":              "config init drain-timeout hostname listen-tls listen-quic ingress-connect state-dir",
		"ebbgate connector register":     "config relay key-file name state-dir proxy-mode proxy-url",
		"ebbgate connector run":          "config state-dir",
		"ebbgate connector status":       "config state-dir",
		"ebbgate connector reload":       "config state-dir",
		"ebbgate gateway create":         "config api tenant",
		"ebbgate gateway list":           "config api tenant",
		"ebbgate gateway keys":           "config api tenant",
		"ebbgate gateway regenerate-key": "config api tenant",
		"ebbgate node list":              "config api tenant",
		"ebbgate store test":             "config api tenant node",
		"ebbgate job create":             "config api tenant allow",
		"ebbgate job list":               "config api tenant",
		"ebbgate job revoke":             "config api tenant",
		"ebbgate forward":                "listen relay token-file carriers resume-grace",
		"ebbgate exec":                   "store connect no-proxy summary progress relay token-file run carriers resume-grace",
		"ebbgate dial":                   "relay token-file run carriers resume-grace",
		"ebbgate version":                "",
	}
	for _, c := range commands() {
		flags := strings.Fields(want[c.CommandPath()] + " json log-level")
		delete(want, c.CommandPath())
		for _, name := range flags {
			f := c.Flags().Lookup(name)
			if f == nil {
				f = c.InheritedFlags().Lookup(name)
			}
			if f == nil && c.HasParent() {
				t.Errorf("%s has no --%s", c.CommandPath(), name)
			} else if f != nil && f.Usage == "" {
				t.Errorf("%s --%s does not say what it is", c.CommandPath(), name)
			}
		}
	}
	for path := range want {
		t.Errorf("there is no command %s", path)
	}
}
