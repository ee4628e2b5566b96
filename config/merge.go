package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// merged remembers which source each key came from.
type merged struct {
	file   string
	wheres map[string]string
}

// where is the place of a key, or of the nearest key above it.
func (m *merged) where(key string) string {
	for key != "" {
		if w, ok := m.wheres[key]; ok {
			return w
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	if m.file != "" {
		return m.file
	}
	return "without --config"
}

// load fills raw, a pointer to a raw struct, from all sources.
func load(opt Options, prefix string, raw any) (*merged, error) {
	typ := reflect.TypeOf(raw).Elem()
	keys := keysOf(reflect.Zero(typ).Interface())
	environment := opt.Environment
	if environment == nil {
		environment = os.Environ()
	}
	var sources []*source
	if opt.File != "" {
		text, err := readFile(opt.File)
		if err != nil {
			return nil, err
		}
		sources = append(sources, fileSource(opt.File, text, typ))
	}
	sources = append(sources, environmentSource(environment, prefix, keys), flagSource(opt.Flags, keys))

	return merge(sources, opt.File, raw)
}

// merge fills raw from sources, the later of which overrule the earlier.
func merge(sources []*source, file string, raw any) (*merged, error) {
	v := viper.New()
	m := &merged{file: file, wheres: make(map[string]string)}
	var problems []Problem
	for _, s := range sources {
		problems = append(problems, s.problems...)
		m.take(s)
		if err := v.MergeConfigMap(s.values); err != nil {
			return nil, fmt.Errorf("config: BUG: merge: %w", err)
		}
	}
	if len(problems) > 0 {
		return nil, &Error{Problems: problems}
	}
	if err := v.UnmarshalExact(raw); err != nil {
		return nil, fmt.Errorf("config: BUG: decode: %w", err)
	}
	return m, nil
}

// take lets the places of s overrule the ones there are; those of what a key
// held before are forgotten.
func (m *merged) take(s *source) {
	for key := range s.where {
		for old := range m.wheres {
			if strings.HasPrefix(old, key+"[") {
				delete(m.wheres, old)
			}
		}
	}
	for key, where := range s.where {
		m.wheres[key] = where
	}
}

func readFile(name string) ([]byte, error) {
	unreadable := func(err error) error {
		var path *os.PathError
		message := err.Error()
		if errors.As(err, &path) {
			message = path.Err.Error()
		}
		return &Error{Problems: []Problem{{Where: name, Message: "cannot be read: " + message}}, Err: err}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, fileLimit+1))
	if err != nil {
		return nil, unreadable(err)
	}
	return text, nil
}

func fileSource(name string, text []byte, typ reflect.Type) *source {
	d := &decoder{source: newSource(), at: func(line int) string {
		if line == 0 {
			return name
		}
		return fmt.Sprintf("%s:%d", name, line)
	}}
	root := d.parse(text)
	switch {
	case root != nil:
		if values := d.mapping("", root, typ); values != nil {
			d.values = values
		}
	case len(d.problems) == 0:
		d.add(name, "", "is empty; docs/reference shows every key", "")
	}
	return d.source
}

func environmentSource(environment []string, prefix string, keys []key) *source {
	s := newSource()
	byName := make(map[string]key)
	var known []string
	for _, k := range keys {
		byName[k.variable(prefix)] = k
		known = append(known, k.variable(prefix))
	}
	for _, entry := range slices.Sorted(slices.Values(environment)) {
		name, text, _ := strings.Cut(entry, "=")
		rest, ours := strings.CutPrefix(name, prefix)
		k, isKey := byName[name]
		where := "environment variable " + printable(name)
		switch {
		case !ours || text == "":
		case isKey:
			s.put(where, k, text)
		case rest == "PORT" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_"):
			// Kubernetes sets these for a service of that name.
		default:
			message := "is no key of the configuration"
			if near := nearest(name, known); near != "" {
				message += fmt.Sprintf("; did you mean %s?", near)
			}
			s.add(where, "", message, "")
		}
	}
	return s
}

func flagSource(fs *pflag.FlagSet, keys []key) *source {
	s := newSource()
	if fs == nil {
		return s
	}
	for _, k := range keys {
		f := fs.Lookup(k.flag())
		if f == nil || !f.Changed {
			continue
		}
		where := "flag --" + f.Name
		if list, ok := f.Value.(pflag.SliceValue); ok {
			s.list(where, k, list.GetSlice())
		} else {
			s.put(where, k, f.Value.String())
		}
	}
	return s
}

// put sets a key to what the text of a variable or a flag says.
func (s *source) put(where string, k key, text string) {
	switch {
	case k.typ.Kind() == reflect.Slice && k.typ.Elem().Kind() == reflect.Struct && k.list:
		d := &decoder{source: s, at: func(int) string { return where }}
		if root := d.parse([]byte(text)); root != nil {
			if value, ok := d.value(k.path, root, k.typ, ""); ok {
				s.set(where, k, value)
			}
		}
	case k.list:
		s.list(where, k, strings.Split(text, ","))
	default:
		d := &decoder{source: s, at: func(int) string { return where }}
		node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
		if k.typ.Kind() == reflect.Bool && (text == "true" || text == "false") {
			node.Tag = "!!bool"
		}
		if k.typ.Kind() == reflect.Int {
			node.Tag = "!!int"
		}
		if value, ok := d.value(k.path, node, k.typ, k.short); ok {
			s.set(where, k, value)
		}
	}
}

func (s *source) list(where string, k key, texts []string) {
	list := make([]any, len(texts))
	for i, t := range texts {
		list[i] = strings.TrimSpace(t)
	}
	s.set(where, k, list)
}

func (s *source) set(where string, k key, value any) {
	m := s.values
	parts := strings.Split(k.path, ".")
	for _, p := range parts[:len(parts)-1] {
		next, ok := m[p].(map[string]any)
		if !ok {
			next = make(map[string]any)
			m[p] = next
		}
		m = next
	}
	m[parts[len(parts)-1]] = value
	s.where[k.path] = where
}
