package tunnel

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// table gives the first cells of the rows of the table whose header begins so.
func table(t *testing.T, header string) (rows [][]string) {
	t.Helper()
	page, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "\n| "+header)
	if !found {
		t.Fatalf("PROTOCOL.md has no table %q", header)
	}
	lines := strings.Split(rest, "\n")[2:]
	for _, line := range lines {
		if !strings.HasPrefix(line, "|") {
			break
		}
		var cells []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.Trim(cell, " `"))
		}
		rows = append(rows, cells)
	}
	return rows
}

func first(rows [][]string) (list []string) {
	for _, r := range rows {
		list = append(list, r[0])
	}
	slices.Sort(list)
	return list
}

// constants gives the string constants of this package whose names begin so.
func constants(t *testing.T, prefix string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, name := range spec.Names {
				if !strings.HasPrefix(name.Name, prefix) || i >= len(spec.Values) {
					continue
				}
				if lit, ok := spec.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					s, _ := strconv.Unquote(lit.Value)
					list = append(list, s)
				}
			}
			return true
		})
	}
	slices.Sort(list)
	return list
}

func TestProtocolPageAgreesWithTheCode(t *testing.T) {
	var carriers []string
	for _, c := range Carriers {
		carriers = append(carriers, string(c))
	}
	slices.Sort(carriers)
	for _, test := range []struct {
		header string
		code   []string
	}{
		{"kind |", constants(t, "Kind")},
		{"type | answer", constants(t, "Type")},
		{"role in", constants(t, "Role")},
		{"carrier |", carriers},
	} {
		if page := first(table(t, test.header)); !slices.Equal(page, test.code) {
			t.Errorf("table %q: the page has %v, the code %v", test.header, page, test.code)
		}
	}
	for _, row := range table(t, "type | answer") {
		if row[1] != replies[row[0]] {
			t.Errorf("%s is answered with %q, the page says %q", row[0], replies[row[0]], row[1])
		}
	}
}

func TestProtocolPageHasTheLimits(t *testing.T) {
	page, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	plain := regexp.MustCompile(`(\d),(\d)`).ReplaceAllString(string(page), "$1$2")
	for _, want := range []string{
		"1 to " + strconv.Itoa(maxMessage), "1 to " + strconv.Itoa(maxJoin), "at most " + strconv.Itoa(maxPeek),
		"windows up to " + strconv.Itoa(streamWindow>>20) + " MiB", "every " + strconv.Itoa(int(keepAlive.Seconds())) + " s",
		"at most " + strconv.Itoa(maxRelays) + ", the sender", "identity (at most " + strconv.Itoa(maxIdentity) + " bytes)", "host (at most " + strconv.Itoa(maxHost) + ")",
		"`" + ALPN + "`", "`" + ALPNLane + "`", "EXPORTER-ebbgate-enrol", laneLabel,
	} {
		if !strings.Contains(plain, want) {
			t.Errorf("PROTOCOL.md does not say %q", want)
		}
	}
}
