package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestPostgres(t *testing.T) {
	for _, tt := range []struct{ address, mode string }{
		{"postgres://relay@db.example.com/ebbgate", "verify-full"},
		{"postgresql://relay:pass%2Fword@db.example.com:6432/ebbgate", "verify-full"},
		{"postgres://relay@db.example.com/ebbgate?sslmode=require", "require"},
		{"postgres://relay@127.0.0.1/ebbgate", "prefer"},
		{"postgres://relay@localhost:5433/ebbgate", "prefer"},
		{"postgres://relay@[::1]:5433/ebbgate", "prefer"},
		{"postgres://relay@/ebbgate?host=/run/postgresql", "prefer"},
		{"postgres://relay@/ebbgate?host=db1,db2&target_session_attrs=read-write", "verify-full"},
		{"postgres://relay@db1:5432,db2:5432/ebbgate", "verify-full"},
		{"postgres://relay@127.0.0.1:5432,db2:5432/ebbgate", "verify-full"},
	} {
		p, err := ParsePostgres(tt.address, "")
		if err != nil {
			t.Errorf("%s: %v", tt.address, err)
			continue
		}
		if !p.Set() || !strings.Contains(p.Reveal(), "sslmode="+tt.mode) {
			t.Errorf("%s: %s", tt.address, p.Reveal())
		}
		for _, shown := range []string{p.String(), fmt.Sprintf("%v %+v %#v %s", p, p, struct{ P Postgres }{p}, &p)} {
			if strings.Contains(shown, "word") || !strings.Contains(shown, "postgres") {
				t.Errorf("prints %s", shown)
			}
		}
	}
	for _, tt := range []struct{ address, file, want string }{
		{"db.example.com", "", "is not postgres://"},
		{"mysql://relay:pass-word@db/ebbgate", "", "is not postgres://"},
		{"host=db user=relay password=pass-word", "", "is not postgres://"},
		{"postgres://db.example.com/ebbgate", "", "names no user"},
		{"postgres://relay:pass-word@db.example.com", "", "names no database"},
		{"postgres://relay:pass-word@db.example.com/x", "/etc/password", "holds a password, and"},
		{"postgres://relay@db/x?password=pass-word", "", "holds a password as an option"},
		{"postgres://relay:pass-word@db/x?%zz", "", "options that cannot be read"},
		{"postgres://relay:pass-word@%zz/x", "", "is not postgres://"},
		{"", "/etc/password", "needs state.postgres"},
	} {
		_, err := ParsePostgres(tt.address, tt.file)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "pass-word") {
			t.Errorf("%s: got %v, want %q", tt.address, err, tt.want)
		}
	}
}
