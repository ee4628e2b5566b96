package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// fileLimit is far more than a configuration needs.
const fileLimit = 1 << 20

// source is what one file, the environment or the flags say: texts, numbers,
// lists and mappings, all of which fit the raw struct.
type source struct {
	values map[string]any
	// where tells for each key and each element (stores[0].name) where it
	// stands.
	where    map[string]string
	problems []Problem
}

func newSource() *source {
	return &source{values: make(map[string]any), where: make(map[string]string)}
}

func (s *source) add(where, key, message, example string) {
	s.problems = append(s.problems, Problem{Where: where, Key: key, Message: message, Example: example})
}

// decoder walks the YAML of one text along the fields of a raw struct.
type decoder struct {
	*source
	// at says where a line is: "relay.yaml:3".
	at func(line int) string
}

// parse reads one YAML document; nil: it has problems or says nothing.
func (d *decoder) parse(text []byte) *yaml.Node {
	if len(text) > fileLimit {
		d.add(d.at(0), "", fmt.Sprintf("is larger than %d KiB, so it is no configuration of ours", fileLimit>>10), "")
		return nil
	}
	if line, ok := garbage(text); ok {
		d.add(d.at(line), "", "holds bytes that are no text", "")
		return nil
	}
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		d.syntax(text, err)
		return nil
	}
	switch err := dec.Decode(&more); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(text, err)
		return nil
	default:
		d.add(d.at(more.Line), "", "a second document begins (---), but only one is read", "")
		return nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" && root.Anchor == "" {
		return nil
	}
	return root
}

// garbage finds the first line that is not UTF-8 or has control characters,
// for which the YAML library names no line.
func garbage(text []byte) (line int, found bool) {
	for l := range bytes.Lines(text) {
		line++
		if !utf8.Valid(l) || bytes.ContainsFunc(l, func(r rune) bool {
			return r < ' ' && r != '\t' && r != '\r' && r != '\n' || r == 0x7f
		}) {
			return line, true
		}
	}
	return 0, false
}

// syntax adds what the YAML library complains about. Its errors have no type,
// only the text "yaml: line 3: …", which is taken apart here for the line; it
// is that of the line before in some cases, and missing in the first line.
func (d *decoder) syntax(text []byte, err error) {
	number := 0
	for line := range bytes.Lines(text) {
		number++
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if bytes.ContainsRune(indent, '\t') && len(bytes.TrimSpace(line)) > 0 {
			d.add(d.at(number), "", "is indented with a tab, but YAML wants spaces", "")
			return
		}
	}
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(message, "line "); ok {
		n, after, _ := strings.Cut(rest, ": ")
		if i, err := strconv.Atoi(n); err == nil {
			line, message = i, after
		}
	}
	d.add(d.at(line), "", "is no valid YAML here or just below: "+message, "")
}

// mapping decodes n, which must have no keys but the fields of typ.
func (d *decoder) mapping(prefix string, n *yaml.Node, typ reflect.Type) map[string]any {
	if !d.plain(prefix, n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		d.add(d.at(n.Line), prefix, "is "+kindName(n)+", but a mapping of key: value is wanted", "")
		return nil
	}
	if prefix != "" {
		prefix += "."
	}
	fields := make(map[string]field)
	for _, f := range fieldsOf(typ) {
		if !f.hidden {
			fields[f.name] = f
		}
	}
	values, lines := make(map[string]any), make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			d.add(d.at(k.Line), prefix+"?", "the key is "+kindName(k)+", but a name is wanted", "")
			continue
		}
		path := prefix + printable(k.Value)
		if first, again := lines[k.Value]; again {
			d.add(d.at(k.Line), path, fmt.Sprintf("is here a second time, the first is in line %d", first), "")
			continue
		}
		lines[k.Value] = k.Line
		f, known := fields[k.Value]
		if !known {
			d.unknown(k, prefix, typ)
			continue
		}
		d.where[path] = d.at(k.Line)
		if value, ok := d.value(path, v, f.typ, f.short); ok {
			values[f.name] = value
		}
	}
	return values
}

// value decodes n as a value of typ; !ok: it is null or has problems.
func (d *decoder) value(path string, n *yaml.Node, typ reflect.Type, short string) (value any, ok bool) {
	if !d.plain(path, n) || n.ShortTag() == "!!null" {
		return nil, false
	}
	if short != "" && n.Kind == yaml.ScalarNode {
		text, ok := d.text(path, n)
		switch {
		case short == "list":
			return []any{text}, ok
		case typ.Kind() == reflect.Slice:
			return shorts(short, text), ok
		}
		return map[string]any{short: text}, ok
	}
	switch typ.Kind() {
	case reflect.Struct:
		m := d.mapping(path, n, typ)
		return m, m != nil
	case reflect.Slice:
		element := "" // the short form of an element
		if short != "" && short != "list" {
			if element = short; n.Kind == yaml.MappingNode {
				m := d.mapping(path, n, typ.Elem())
				if m != nil {
					m[alone] = true
				}
				return []any{m}, m != nil
			}
		}
		if n.Kind != yaml.SequenceNode {
			example := "[" + printable(n.Value) + "]"
			if n.Kind != yaml.ScalarNode {
				example = ""
			}
			d.add(d.at(n.Line), path, "is "+kindName(n)+", but a list is wanted", example)
			return nil, false
		}
		list := make([]any, 0, len(n.Content))
		for i, c := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			d.where[at] = d.at(c.Line)
			if c.ShortTag() == "!!null" {
				d.add(d.at(c.Line), at, "is empty", "")
			} else if v, ok := d.value(at, c, typ.Elem(), element); ok {
				list = append(list, v)
			}
		}
		return list, true
	case reflect.Int:
		number, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			d.add(d.at(n.Line), path, "is "+kindName(n)+", but a whole number is wanted", "443")
			return nil, false
		}
		return number, true
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			d.add(d.at(n.Line), path, "is "+kindName(n)+", but true or false is wanted", "true")
			return nil, false
		}
		return strings.EqualFold(n.Value, "true"), true
	case reflect.String:
		return d.text(path, n)
	}
	panic(fmt.Sprintf("config: BUG: no decoding for %v", typ))
}

// alone is the hidden key of an element that was written without the list around
// it.
const alone = "alone"

// shorts makes a list of short forms of a text with commas, as variables and
// flags have it.
func shorts(short, text string) []any {
	if !strings.Contains(text, ",") {
		return []any{map[string]any{short: text, alone: true}}
	}
	var list []any
	for _, t := range strings.Split(text, ",") {
		list = append(list, map[string]any{short: strings.TrimSpace(t)})
	}
	return list
}

func (d *decoder) text(path string, n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		d.add(d.at(n.Line), path, "is "+kindName(n)+", but one value is wanted", "")
		return "", false
	}
	if n.ShortTag() != "!!str" {
		d.add(d.at(n.Line), path, "is "+kindName(n)+", but text is wanted: put it in quotes", strconv.Quote(printable(n.Value)))
		return "", false
	}
	for _, r := range n.Value {
		if r < ' ' || r == 0x7f {
			d.add(d.at(n.Line), path, "holds a line break or another control character", "")
			return "", false
		}
	}
	return n.Value, true
}

// plain refuses what YAML can do and a configuration does not need.
func (d *decoder) plain(path string, n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.add(d.at(n.Line), path, "uses an anchor or alias (& or *): write the value itself, in quotes if it begins with * or &", `"*.corp.example"`)
	case n.Style&yaml.TaggedStyle != 0:
		d.add(d.at(n.Line), path, "uses a tag ("+printable(n.Tag)+"): write the value itself", "")
	default:
		return true
	}
	return false
}

func (d *decoder) unknown(k *yaml.Node, prefix string, typ reflect.Type) {
	var known []string
	for _, f := range fieldsOf(typ) {
		if !f.hidden {
			known = append(known, f.name)
		}
	}
	message := "unknown key"
	if near := nearest(k.Value, known); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
	} else {
		message += "; known here: " + strings.Join(known, ", ")
	}
	d.add(d.at(k.Line), prefix+printable(k.Value), message, "")
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!timestamp":
		return "a date"
	}
	return "text"
}

// printable is a key or plain value as an error may show it.
func printable(s string) string {
	q := quote(s)
	if q == `"`+s+`"` {
		return s
	}
	return q
}
