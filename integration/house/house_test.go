package house

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ebbgate/ebbgate"

// imports says what of this module a package may import; a path that ends in
// /... stands for what is in that folder and below. The most exact key rules.
// What tests import is checked as well.
var imports = map[string][]string{
	"cmd/...":         {"demo/...", "relay/...", "connector/...", "client/...", "tunnel/...", "proxycfg/...", "certs/...", "config/..."},
	"demo/...":        {"demo/...", "relay/...", "connector/...", "client/...", "tunnel/...", "proxycfg/...", "certs/...", "config/..."},
	"relay":           {"relay/...", "tunnel/...", "certs/...", "config/..."},
	"relay/state":     {"relay/state/postgrestest", "certs/...", "config"},
	"relay/state/...": {},
	"relay/activity":  {"relay/state/postgrestest", "config"},
	"relay/ingress":   {"tunnel/...", "certs/...", "config/..."},
	"relay/admin":     {"certs/...", "config/..."},
	"connector/...":   {"connector/...", "tunnel/...", "proxycfg/...", "certs/...", "config/..."},
	"client/...":      {"client/...", "tunnel/...", "proxycfg/...", "certs/...", "config/..."},
	"tunnel":          {"tunnel/bundle", "proxycfg", "certs"},
	"tunnel/bundle":   {},
	"proxycfg/...":    {"proxycfg/..."},
	"certs/...":       {"certs/..."},
	"config/...":      {"config/..."},
	"integration/...": {"integration/...", "relay/...", "connector/...", "client/...", "tunnel/...", "proxycfg/...", "certs/...", "config/..."},
}

const (
	codeLines = 500 // of a file that one reads at one sitting
	testLines = 700 // tables make tests longer
)

// file is one Go file of the repository.
type file struct {
	path string // from the root, with slashes
	dir  string
	test bool
	text []byte
	tree *ast.File
	set  *token.FileSet
}

func (f file) line(n ast.Node) string {
	return f.path + ":" + strconv.Itoa(f.set.Position(n.Pos()).Line)
}

// files reads all Go files but generated ones and test data.
func files(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	var all []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			skip := d.Name() == "testdata" || d.Name() == "tools" || (strings.HasPrefix(d.Name(), ".") && rel != ".")
			if skip {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		f := file{path: filepath.ToSlash(rel), set: token.NewFileSet()}
		f.dir, f.test = path.Dir(f.path), strings.HasSuffix(f.path, "_test.go")
		if f.text, err = os.ReadFile(name); err != nil {
			return err
		}
		f.tree, err = parser.ParseFile(f.set, f.path, f.text, parser.ParseComments|parser.SkipObjectResolution)
		if err == nil && !ast.IsGenerated(f.tree) {
			all = append(all, f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found only %d files", len(all))
	}
	return all
}

func (f file) imports() map[string]ast.Node {
	paths := make(map[string]ast.Node)
	for _, spec := range f.tree.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths[p] = spec
		}
	}
	return paths
}

// covers tells whether pattern stands for the package dir.
func covers(pattern, dir string) bool {
	prefix, below := strings.CutSuffix(pattern, "/...")
	return dir == prefix || below && strings.HasPrefix(dir, prefix+"/")
}

// rule is the most exact key of imports that covers dir.
func rule(dir string) (allowed []string, ok bool) {
	best := ""
	for pattern := range imports {
		if covers(pattern, dir) && (!ok || len(pattern) > len(best) || pattern == dir) && best != dir {
			best, ok = pattern, true
		}
	}
	return imports[best], ok
}

func TestImportDirection(t *testing.T) {
	for _, f := range files(t) {
		allowed, ok := rule(f.dir)
		if !ok {
			t.Errorf("%s: no rule says what %s may import", f.path, f.dir)
		}
		for p, at := range f.imports() {
			dir, ours := strings.CutPrefix(p, module+"/")
			if !ours || dir == f.dir {
				continue
			}
			if !slices.ContainsFunc(allowed, func(pattern string) bool { return covers(pattern, dir) }) {
				t.Errorf("%s: %s must not import %s", f.line(at), f.dir, dir)
			}
		}
	}
}

func TestRule(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		want     bool
	}{
		{"relay", "relay/state", true},
		{"relay", "connector", false},
		{"relay/state", "certs/grant", true},
		{"relay/state", "relay", false},
		{"relay/ingress", "relay", false},
		{"tunnel/bundle", "certs", false},
		{"tunnel", "tunnel/bundle", true},
		{"connector", "client", false},
		{"connector/vault", "connector", true},
		{"config", "certs", false},
		{"certs/grant", "certs", true},
		{"cmd/ebbgate", "demo", true},
		{"relayed", "certs", false},
	} {
		allowed, _ := rule(tt.from)
		got := slices.ContainsFunc(allowed, func(pattern string) bool { return covers(pattern, tt.to) })
		if got != tt.want {
			t.Errorf("%s imports %s: %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestPackageComment(t *testing.T) {
	comments, names := make(map[string]int), make(map[string]string)
	for _, f := range files(t) {
		if f.test {
			continue
		}
		names[f.dir] = f.tree.Name.Name
		if f.tree.Doc == nil {
			continue
		}
		comments[f.dir]++
		begin := "Package " + f.tree.Name.Name + " "
		if f.tree.Name.Name == "main" {
			begin = "Command " + path.Base(f.dir) + " "
		}
		if text := f.tree.Doc.Text(); !strings.HasPrefix(text, begin) {
			t.Errorf("%s: the package comment does not begin with %q", f.path, begin)
		}
	}
	for dir := range names {
		if comments[dir] != 1 {
			t.Errorf("%s: %d package comments, want 1", dir, comments[dir])
		}
	}
}

func TestFileLength(t *testing.T) {
	for _, f := range files(t) {
		most := codeLines
		if f.test {
			most = testLines
		}
		if n := bytes.Count(f.text, []byte("\n")); n > most {
			t.Errorf("%s has %d lines, more than %d", f.path, n, most)
		}
	}
}

// In synctest, sleeping is how virtual time passes; anywhere else it is a wait
// for something that should be waited for itself.
func TestNoSleep(t *testing.T) {
	for _, f := range files(t) {
		_, virtual := f.imports()["testing/synctest"]
		if f.test && virtual {
			continue
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: time.Sleep: wait for the event itself", f.line(n))
				}
			}
			return true
		})
	}
}

// Words that say nothing of what a thing does.
func TestNames(t *testing.T) {
	empty := []string{"Manager", "Controller", "Helper", "Impl", "Util", "Utils"}
	for _, f := range files(t) {
		base := strings.TrimSuffix(strings.TrimSuffix(path.Base(f.path), ".go"), "_test")
		if slices.ContainsFunc(empty, func(w string) bool { return strings.EqualFold(base, w) }) {
			t.Errorf("%s: a file is named by what is in it", f.path)
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if ok && slices.ContainsFunc(empty, func(w string) bool { return strings.HasSuffix(spec.Name.Name, w) }) {
				t.Errorf("%s: the name %s says nothing of what it does", f.line(spec), spec.Name.Name)
			}
			return true
		})
	}
}

// A package with goroutines is checked for those that stay.
func TestLeakCheck(t *testing.T) {
	tested, checked := make(map[string]bool), make(map[string]bool)
	for _, f := range files(t) {
		if !f.test || strings.HasPrefix(f.dir, "integration") {
			continue // programs are processes there, watched by package proc
		}
		tested[f.dir] = true
		if _, ok := f.imports()["go.uber.org/goleak"]; ok && bytes.Contains(f.text, []byte("func TestMain(")) {
			checked[f.dir] = true
		}
	}
	for dir := range tested {
		if !checked[dir] {
			t.Errorf("%s: no TestMain with goleak", dir)
		}
	}
}
