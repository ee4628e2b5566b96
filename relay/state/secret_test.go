package state

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebbgate/ebbgate/certs"
)

// TestSecretsAtRest looks for every secret in every file but the key, and in what
// is printed.
func TestSecretsAtRest(t *testing.T) {
	opt := options(t)
	var log bytes.Buffer
	opt.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	mustInit(t, opt)
	s := mustOpen(t, opt)
	ctx := t.Context()
	secrets := make(map[string][]byte)
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	add := func(name string) {
		t.Helper()
		text1, text2, err := s.GatewayKeys(DefaultTenant, "corp")
		if err != nil {
			t.Fatal(err)
		}
		secrets[name+" key1"] = must[certs.Key](t)(certs.ParseKey(text1)).Secret.Reveal()
		secrets[name+" key2"] = must[certs.Key](t)(certs.ParseKey(text2)).Secret.Reveal()
	}
	add("first")
	must[string](t)(s.RegenerateKey(ctx, DefaultTenant, "corp", Key1))
	add("second")
	_, text, err := s.CreateJob(ctx, DefaultTenant, "job", []string{"corp/x"})
	if err != nil {
		t.Fatal(err)
	}
	secrets["token"] = must[certs.Token](t)(certs.ParseToken(text)).Secret.Reveal()
	ca := must[[]byte](t)(s.Authorities()[0].MarshalKey())
	secrets["CA"] = ca[len(ca)-32:]
	raw := must[[]byte](t)(os.ReadFile(s.files.key))
	master := must[masterKey](t)(parseKey(raw))
	secrets["master"] = master.secret.Reveal()

	g := s.current.Load().gateways[gatewayKey{DefaultTenant, "corp"}]
	printed := fmt.Sprintf("%v %+v %#v %v %+v %#v %v %+v %+v", *g, *g, *g, master, master, s.keys, *s.keys, s, *s.current.Load())
	encoded, _ := json.Marshal([]any{g, master})
	places := map[string][]byte{"print": []byte(printed), "json": encoded, "log": log.Bytes()}
	for name, raw := range imageOf(t, opt.Dir) {
		if name != nameKey {
			places[name] = raw
		}
	}
	for secret, value := range secrets {
		for place, raw := range places {
			for form, text := range map[string]string{
				"bytes": string(value), "hex": hex.EncodeToString(value), "base64": base64.StdEncoding.EncodeToString(value)[:40],
				"decimals": strings.Trim(fmt.Sprint(value), "[]"),
			} {
				if bytes.Contains(raw, []byte(text)) {
					t.Errorf("the %s secret is in %s as %s", secret, place, form)
				}
			}
		}
	}
	if !strings.Contains(printed, "[redacted]") {
		t.Errorf("nothing was printed: %s", printed)
	}
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	bare := certs.NewSecret().Reveal()
	for _, c := range []struct {
		name    string
		content []byte // nil: Init makes it
		want    error
		code    string
	}{
		{"made", nil, nil, ""},
		{"base64", []byte(base64.StdEncoding.EncodeToString(bare) + "\n"), nil, ""},
		{"hex", []byte(hex.EncodeToString(bare)), nil, ""},
		{"short", []byte(hex.EncodeToString(bare[:31])), ErrExists, "state-exists"},
		{"empty", []byte{}, ErrExists, "state-exists"},
		{"garbage", []byte("secret"), ErrExists, "state-exists"},
		{"another instance's", masterKey{certs.NewSecret(), newID()}.encode(), ErrExists, "state-exists"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := options(t)
			opt.KeyFile = filepath.Join(t.TempDir(), "credential")
			if c.content != nil {
				if err := os.WriteFile(opt.KeyFile, c.content, 0o400); err != nil {
					t.Fatal(err)
				}
			}
			err := Init(t.Context(), opt)
			if c.want != nil {
				wantError(t, err, c.want, c.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(filepath.Join(opt.Dir, nameKey)); !os.IsNotExist(err) {
				t.Errorf("there is a key in the directory, too: %v", err)
			}
			if c.content != nil {
				if raw, err := os.ReadFile(opt.KeyFile); err != nil || !bytes.Equal(raw, c.content) {
					t.Errorf("the key was changed: %q, %v", raw, err)
				}
			}
			s := mustOpen(t, opt)
			must[Gateway](t)(s.CreateGateway(t.Context(), DefaultTenant, "corp"))
			s = reopen(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}

			// Without the option the key is missing, with a fresh one it is wrong.
			_, err = Open(t.Context(), Options{Dir: opt.Dir})
			wantCorrupt(t, err, "missing")
			if err := os.Chmod(opt.KeyFile, 0o600); err != nil {
				t.Fatal(err)
			}
			other := base64.StdEncoding.EncodeToString(certs.NewSecret().Reveal())
			if err := os.WriteFile(opt.KeyFile, []byte(other), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), opt)
			wantCorrupt(t, err, "seal is broken")
		})
	}
	t.Run("no directory", func(t *testing.T) {
		opt := options(t)
		opt.KeyFile = filepath.Join(t.TempDir(), "none", "key")
		wantError(t, Init(t.Context(), opt), ErrInvalid, "key-file-invalid")
	})
	t.Run("the disk of the state is not mounted", func(t *testing.T) {
		opt := options(t)
		opt.KeyFile = filepath.Join(t.TempDir(), "key")
		mustInit(t, opt)
		if err := os.RemoveAll(opt.Dir); err != nil {
			t.Fatal(err)
		}
		wantError(t, Init(t.Context(), opt), ErrExists, "state-exists")
		_, err := Open(t.Context(), opt)
		if err == nil {
			t.Fatal("opened")
		}
		t.Log(err)
	})
	t.Run("exposed", func(t *testing.T) {
		opt := options(t)
		mustInit(t, opt)
		if err := os.Chmod(filepath.Join(opt.Dir, nameKey), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), opt)
		wantError(t, err, ErrInvalid, "key-file-exposed")
	})
}

func TestPlaceOfSecrets(t *testing.T) {
	keys, err := newKeyring(certs.NewSecret(), newID())
	if err != nil {
		t.Fatal(err)
	}
	text := keys.encrypt([]byte("secret"), "here")
	if plain, err := keys.decrypt(text, "here"); err != nil || string(plain) != "secret" {
		t.Errorf("got %q, %v", plain, err)
	}
	if _, err := keys.decrypt(text, "there"); err == nil {
		t.Error("a secret was moved")
	}
	for _, bad := range []string{"", "x", "AAAA", text[:len(text)-4], text + "AAAA"} {
		if _, err := keys.decrypt(bad, "here"); err == nil {
			t.Errorf("%q decrypts", bad)
		}
	}
	other, err := newKeyring(certs.NewSecret(), newID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.decrypt(text, "here"); err == nil {
		t.Error("another key decrypts")
	}
}
