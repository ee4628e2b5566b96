package config

import (
	"fmt"
	"reflect"
	"strings"
)

// key is one key of a raw struct that holds a value.
type key struct {
	path  string // proxy.password_file
	usage string // empty: it has no flag
	list  bool   // of values, or of mappings without a short form
	typ   reflect.Type
	short string
}

func (k key) flag() string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(k.path)
}

func (k key) variable(prefix string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
}

// keysOf lists the keys of a raw struct: its fields, but for structs without a
// short form those of the struct.
func keysOf(raw any) []key {
	var keys []key
	var walk func(prefix string, t reflect.Type)
	walk = func(prefix string, t reflect.Type) {
		for _, f := range fieldsOf(t) {
			if f.typ.Kind() == reflect.Struct && f.short == "" {
				walk(prefix+f.name+".", f.typ)
				continue
			}
			keys = append(keys, key{
				path: prefix + f.name, usage: f.usage, typ: f.typ, short: f.short,
				list: f.typ.Kind() == reflect.Slice && (f.short == "" || f.typ.Elem().Kind() != reflect.Struct),
			})
		}
	}
	walk("", reflect.TypeOf(raw))
	return keys
}

// field is one key of one mapping.
type field struct {
	name, usage string
	// short says what a single text stands for: "list", a list with that one
	// value; else the name of the key of the mapping that it is written to. A list
	// of mappings with a short form may be one mapping, too.
	short string
	// hidden keys are only written by short forms.
	hidden bool
	typ    reflect.Type
}

func fieldsOf(t reflect.Type) []field {
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: BUG: fields of %v", t))
	}
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		typ := f.Type
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		fields = append(fields, field{
			name: f.Tag.Get("mapstructure"), usage: f.Tag.Get("usage"), short: f.Tag.Get("short"),
			hidden: f.Tag.Get("hidden") != "", typ: typ,
		})
	}
	return fields
}

// nearest is the known word that s is most likely meant to be, or "".
func nearest(s string, known []string) string {
	plain := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }
	best, limit := "", min(2, len(s)/3)
	if len(s) > 40 {
		return ""
	}
	for _, k := range known {
		d := distance(plain(s), plain(k))
		if d <= limit && (best == "" || d < limit) {
			best, limit = k, d
		}
	}
	return best
}

// distance counts the changes (insert, delete, replace, swap neighbours) that
// make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
