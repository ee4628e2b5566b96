package ingress

import (
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"erp-sql.corp:1433":                 "erp-sql.corp:1433",
		"Erp-SQL.Corp.:1433":                "erp-sql.corp:1433",
		"SQL01.corp.LOCAL:0":                "sql01.corp.local:0",
		"10.0.0.5:1":                        "10.0.0.5:1",
		"[2001:DB8:0:0::1]:65535":           "[2001:db8::1]:65535",
		"[::ffff:10.0.0.5]:1":               "10.0.0.5:1",
		"xn--strae-oqa.example:1":           "xn--strae-oqa.example:1",
		"erp.corp":                          "",
		"erp.corp:":                         "",
		"erp.corp:65536":                    "",
		"erp.corp:-1":                       "",
		"erp.corp:http":                     "",
		":1":                                "",
		".:1":                               "",
		"straße.example:1":                  "",
		"a b:1":                             "",
		"user@erp.corp:1":                   "",
		"http://erp.corp:1":                 "",
		"a\x00b:1":                          "",
		strings.Repeat("a", 254) + ":1":     "",
		strings.Repeat("a.", 126) + "a:443": strings.Repeat("a.", 126) + "a:443",
	} {
		got, err := ParseTarget(text)
		switch {
		case want == "" && (err == nil || codeOf(err) != "target-malformed"):
			t.Errorf("%q is %v, %v; want it refused", text, got, err)
		case want != "" && (err != nil || got.String() != want):
			t.Errorf("%q is %v, %v; want %s", text, got, err, want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add("erp-sql.corp:1433")
	f.Add("[2001:db8::1%eth0]:1")
	f.Fuzz(func(t *testing.T, text string) {
		target, err := ParseTarget(text)
		if err != nil {
			return
		}
		if again, err := ParseTarget(target.String()); err != nil || again != target {
			t.Errorf("%q is %+v, which is %+v, %v", text, target, again, err)
		}
	})
}
