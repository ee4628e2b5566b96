//go:build linux

package stores

import (
	"fmt"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// recipes are a page of sections with code blocks.
type recipes struct {
	sections map[string]*section // by heading; what stands before the first is ""

	// real are the addresses and ports by those that the page names. Ports of the relay are known after bind.
	real map[string]string

	environment string // what all commands find
	test        string // how a store is tested
}

// section is what one store needs.
type section struct {
	title    string
	stores   []rig.Store // lines of connector.yaml
	ingress  ingress     // of relay.yaml
	forwards []string    // commands that keep running
	commands []string    // blocks of commands, in their order

	files map[string]string // other files, by their names
}

type ingress struct {
	Connect string           `yaml:"connect"`
	Socks5  string           `yaml:"socks5"`
	HTTPS   bool             `yaml:"https"`
	Ports   []map[string]any `yaml:"ports"`
}

// readRecipes reads a page. Each of its code blocks must be understood: YAML or INI that begins with the name of its file,
// or commands.
func readRecipes(path string) (*recipes, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	at := &section{}
	p := &recipes{sections: map[string]*section{"": at}, real: map[string]string{}}
	var (
		block []string
		kind  string // of the block; "": outside
	)
	for n, line := range strings.Split(string(text), "\n") {
		switch fence, isFence := strings.CutPrefix(line, "```"); {
		case kind != "" && isFence:
			text := strings.Join(block, "\n") + "\n"
			switch {
			case strings.HasPrefix(text, "export EBBGATE_"):
				p.environment = text
			case strings.HasPrefix(text, "ebbgate store test "):
				p.test = text
			default:
				if err := at.add(kind, text); err != nil {
					return nil, fmt.Errorf("%s: the block before line %d: %w", path, n+1, err)
				}
			}
			kind, block = "", nil
		case kind != "":
			block = append(block, line)
		case isFence && fence == "":
			return nil, fmt.Errorf("%s:%d: a block without a language", path, n+1)
		case isFence:
			kind = fence
		case strings.HasPrefix(line, "## "):
			at = &section{title: strings.TrimPrefix(line, "## ")}
			p.sections[at.title] = at
		}
	}
	if kind != "" {
		return nil, fmt.Errorf("%s: a block without an end", path)
	}
	return p, nil
}

func (s *section) add(kind, text string) error {
	first, _, _ := strings.Cut(text, "\n")
	switch {
	case kind == "yaml" && first == "# connector.yaml":
		var file struct {
			Stores []struct {
				Name    string   `yaml:"name"`
				Address string   `yaml:"address"`
				Aliases []string `yaml:"aliases"`
			} `yaml:"stores"`
		}
		if err := unmarshal(text, &file); err != nil {
			return err
		}
		for _, store := range file.Stores {
			s.stores = append(s.stores, rig.Store{
				Name: store.Name, Address: store.Address, Aliases: store.Aliases, AllowSpecial: []string{"loopback"},
			})
		}
	case kind == "yaml" && first == "# relay.yaml":
		var file struct {
			Hostname string  `yaml:"hostname"`
			Ingress  ingress `yaml:"ingress"`
		}
		if err := unmarshal(text, &file); err != nil {
			return err
		}
		s.ingress = file.Ingress
	case kind == "ini" && strings.HasPrefix(first, "# "):
		if s.files == nil {
			s.files = make(map[string]string)
		}
		s.files[strings.TrimPrefix(first, "# ")] = text
	case kind == "sh" && strings.HasPrefix(first, "ebbgate forward "):
		s.forwards = append(s.forwards, text)
	case kind == "sh":
		s.commands = append(s.commands, text)
	default:
		return fmt.Errorf("a block of %s that begins with %q is neither commands nor a file", kind, first)
	}
	return nil
}

func unmarshal(text string, v any) error {
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	return d.Decode(v)
}

// ports are the lines of ingress.ports of all sections.
func (p *recipes) ports() (list []map[string]any) {
	for _, s := range p.inOrder() {
		list = append(list, s.ingress.Ports...)
	}
	return list
}

// inOrder returns the sections by their titles.
func (p *recipes) inOrder() (list []*section) {
	for _, title := range slices.Sorted(maps.Keys(p.sections)) {
		list = append(list, p.sections[title])
	}
	return list
}

// configuration is the key ingress of a relay that serves the whole page, with free ports.
func (p *recipes) configuration() map[string]any {
	var ports []map[string]any
	for _, port := range p.ports() {
		port = maps.Clone(port)
		port["listen"] = "127.0.0.1:0"
		ports = append(ports, port)
	}
	return map[string]any{"https": p.sections[""].ingress.HTTPS, "connect": "127.0.0.1:0", "socks5": "127.0.0.1:0", "ports": ports}
}

// bind learns the relay's ports.
func (p *recipes) bind(r *rig.Relay) error {
	top := p.sections[""].ingress
	if len(r.Ports) != len(p.ports()) {
		return fmt.Errorf("the relay has ports %q, the page %v", r.Ports, p.ports())
	}
	p.real["relay.example.com"] = r.Address
	for i, port := range p.ports() {
		if err := stands(p.real, fmt.Sprint(port["listen"]), r.Ports[i]); err != nil {
			return err
		}
	}
	if err := stands(p.real, top.Connect, r.Connect); err != nil {
		return err
	}
	return stands(p.real, top.Socks5, r.Socks5)
}

// stands notes which port stands for that of an address of the page.
func stands(real map[string]string, written, actual string) error {
	_, from, err := net.SplitHostPort(written)
	if err != nil {
		return fmt.Errorf("on the page: %w", err)
	}
	_, to, err := net.SplitHostPort(actual)
	if err != nil {
		return err
	}
	if _, twice := real[from]; twice {
		return fmt.Errorf("port %s stands twice on the page", from)
	}
	real[from] = to
	return nil
}

// replaceable are words of commands that stand for something else in a test.
var replaceable = regexp.MustCompile(`\b(relay\.example\.com|[0-9]{4,5})\b`)

// replace puts the real names and ports into commands.
func replace(text string, real map[string]string) string {
	return replaceable.ReplaceAllStringFunc(text, func(word string) string {
		if to, ok := real[word]; ok {
			return to
		}
		return word
	})
}
