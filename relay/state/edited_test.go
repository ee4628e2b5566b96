package state

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// TestEdited changes the database as SQLite lets anybody.
func TestEdited(t *testing.T) {
	t.Parallel()
	opt, want := filled(t)
	whole := imageOf(t, opt.Dir)
	dir := filepath.Join(t.TempDir(), "state")
	for _, c := range []struct{ name, sql, says string }{
		{"a column", "UPDATE jobs SET allow = '[\"lab/*\"]' WHERE name = 'corp-job-0'", "seal"},
		{"a number", "UPDATE nodes SET counter = 5 WHERE name = 'node-0'", "seal"},
		{"a revoked token", "UPDATE tokens SET revoked = 0", "seal"},
		{"a row that went", "DELETE FROM nodes WHERE name = 'node-0' AND gateway = 'lab'", "missing"},
		{"a job that went", "DELETE FROM tokens WHERE job = 'lab-job-0'; DELETE FROM jobs WHERE name = 'lab-job-0'", "missing"},
		{"a row that is new", "INSERT INTO tenants SELECT 'other', created, revision, mac FROM tenants", "seal"},
		{"a row that was renamed", "PRAGMA foreign_keys = 0; UPDATE tenants SET name = 'other'", "refers"},
		{"a secret in another place", "UPDATE gateways SET key1 = key2", "seal"},
		{"no CA", "DELETE FROM authorities", "missing"},
		{"no instance", "DELETE FROM instance", "0 rows"},
		{"two instances", "INSERT INTO instance SELECT 'x', digest, created, revision, mac FROM instance", "seal"},
		{"the revision", "UPDATE instance SET revision = revision + 1", "seal"},
		{"the digest", "UPDATE instance SET digest = ''", "seal"},
		{"another type", "UPDATE nodes SET public_key = x'00'", "holds"},
		{"a real number", "UPDATE nodes SET counter = 0.5", "holds"},
		{"another table", "CREATE TABLE x (y TEXT)", "tables"},
		{"a trigger", "CREATE TRIGGER x AFTER INSERT ON nodes BEGIN DELETE FROM jobs; END", "tables"},
		{"a view", "CREATE VIEW x AS SELECT * FROM jobs", "tables"},
		{"no table", "DROP TABLE tokens", "tables"},
		{"another column", "ALTER TABLE jobs ADD COLUMN x TEXT NOT NULL DEFAULT ''", "tables"},
		{"no migrations", "DELETE FROM goose_db_version", "empty"},
		{"an undone migration", "UPDATE goose_db_version SET is_applied = 0", "migrations"},
		{"no list of migrations", "DROP TABLE goose_db_version", "goose_db_version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := whole.write(dir); err != nil {
				t.Fatal(err)
			}
			tamper(t, dir, c.sql)
			refused, wrong := imageOf(t, dir).attempt(t, dir, want)
			if wrong != nil {
				t.Fatal(wrong)
			}
			wantCorrupt(t, refused, c.says)
		})
	}
	// What an attacker would do: put back a row that was sealed once.
	t.Run("an old row", func(t *testing.T) {
		if err := whole.write(dir); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, Options{Dir: dir})
		if err := s.RevokeJob(t.Context(), DefaultTenant, "corp-job-0"); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		old := filepath.Join(t.TempDir(), "old.db")
		if err := os.WriteFile(old, whole[nameDatabase], 0o600); err != nil {
			t.Fatal(err)
		}
		tamper(t, dir, fmt.Sprintf("PRAGMA foreign_keys = 0; ATTACH '%s' AS old; REPLACE INTO jobs SELECT * FROM old.jobs; REPLACE INTO tokens SELECT * FROM old.tokens", old))
		refused, wrong := imageOf(t, dir).attempt(t, dir, want)
		if wrong != nil {
			t.Fatal(wrong)
		}
		wantCorrupt(t, refused, "missing")
	})
	t.Run("a newer program's", func(t *testing.T) {
		if err := whole.write(dir); err != nil {
			t.Fatal(err)
		}
		tamper(t, dir, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (3, 1), (4, 1)")
		_, err := Open(t.Context(), Options{Dir: dir})
		wantError(t, err, ErrInvalid, "state-newer")
	})
}

// TestHeader changes what SQLite minds only when it writes.
func TestHeader(t *testing.T) {
	opt, want := filled(t)
	whole := imageOf(t, opt.Dir)
	for at, value := range map[int]byte{0: 's', 15: ' ', 18: 2, 19: 3} {
		raw := bytes.Clone(whole[nameDatabase])
		raw[at] = value
		refused, wrong := whole.with(nameDatabase, raw).attempt(t, opt.Dir, want)
		if wrong != nil {
			t.Fatal(wrong)
		}
		wantCorrupt(t, refused, "not a database of this program")
	}
}

// TestOtherCA has the CA replaced by someone who has the key: the marker knows
// the one that was.
func TestOtherCA(t *testing.T) {
	for name, domain := range map[string]func(instance string) string{
		"the same instance's": func(instance string) string { return instance },
		"another's":           func(string) string { return newID() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newState(t)
			ca := must[*certs.Authority](t)(certs.NewAuthority(domain(s.Instance()), 1, time.Now()))
			key := must[[]byte](t)(ca.MarshalKey())
			err := s.change(t.Context(), "replacing the CA", func(now *snapshot) ([]edit, error) {
				return []edit{update(now.authorities[0].row, map[string]any{
					"certificate": encodeBytes(ca.Certificate().Raw), "secret": s.keys.encrypt(key, authorityPlace(1)),
				})}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), s.opt)
			wantCorrupt(t, err, "not the one that the marker knows")

			// And the marker, too: an instance has only its own CA.
			mark := markerOf(s.Instance(), s.current.Load().authorities).encode(s.keys)
			if err := os.WriteFile(s.files.marker, mark, 0o600); err != nil {
				t.Fatal(err)
			}
			again, err := Open(t.Context(), s.opt)
			if name == "another's" {
				wantCorrupt(t, err, "CA is of another instance")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// tamper runs SQL on a state's database.
func tamper(t *testing.T, dir, sql string) {
	t.Helper()
	db, err := openDatabase(filepath.Join(dir, nameDatabase), "rw")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("PRAGMA foreign_keys = 0"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(sql); err != nil {
		t.Fatal(err)
	}
}
