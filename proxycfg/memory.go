package proxycfg

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	memoryFile    = "proxy-refused.json"
	memoryKeyFile = "proxy-refused.key"
	memoryVersion = 1
	maxRefusals   = 16
	maxMemoryFile = 64 << 10
	memoryKeySize = 32
)

// refusal is what the proxy said when it refused a credential.
type refusal struct {
	Scheme Scheme    `json:"scheme"`
	Line   string    `json:"answer"`
	Time   time.Time `json:"time"`
}

// memory remembers refused credentials in the state directory, as keyed hashes:
// who can read the record alone can check no guess of a password with it. There
// is at most one refusal for an account at a proxy, the last one.
type memory struct {
	dir  string        // empty: nothing is remembered
	turn chan struct{} // holds one token while the files are used
}

// account names what is remembered: a credential at a proxy, for some schemes.
type account struct {
	proxy   string
	schemes []Scheme
	cred    *credential
}

type memoryRecord struct {
	Account    string `json:"account"`
	Credential string `json:"credential"`
	refusal
}

type memoryContent struct {
	Version int            `json:"version"`
	Refused []memoryRecord `json:"refused"`
}

func newMemory(dir string) *memory { return &memory{dir: dir, turn: make(chan struct{}, 1)} }

// path is where a person finds the record; empty: there is none.
func (m *memory) path() string {
	if m.dir == "" {
		return ""
	}
	return filepath.Join(m.dir, memoryFile)
}

// recall gives the refusal of exactly this credential; nil: it was not refused.
func (m *memory) recall(a account) (*refusal, error) {
	if m.dir == "" {
		return nil, nil
	}
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	content, err := m.read()
	if err != nil || len(content.Refused) == 0 {
		return nil, err
	}
	key, err := m.key(false)
	if err != nil {
		return nil, err
	}
	name, cred := a.hashes(key)
	for _, r := range content.Refused {
		if r.Account == name && hmac.Equal([]byte(r.Credential), []byte(cred)) {
			return &r.refusal, nil
		}
	}
	return nil, nil
}

// remember records a refusal, so that it outlives a power cut.
func (m *memory) remember(a account, r refusal) error {
	return m.change(a, func(name, cred string, others []memoryRecord) []memoryRecord {
		others = append(others, memoryRecord{name, cred, r})
		return others[max(0, len(others)-maxRefusals):]
	})
}

// forget removes what is recorded for the account.
func (m *memory) forget(a account) error {
	if content, err := m.read(); m.dir == "" || err == nil && len(content.Refused) == 0 {
		return nil
	}
	return m.change(a, func(_, _ string, others []memoryRecord) []memoryRecord { return others })
}

// change replaces the records; edit is given those of other accounts.
func (m *memory) change(a account, edit func(name, cred string, others []memoryRecord) []memoryRecord) error {
	if m.dir == "" {
		return nil
	}
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	key, err := m.key(true)
	if err != nil {
		return err
	}
	content, err := m.read()
	if err != nil {
		content = memoryContent{} // it is worth less than the new record
	}
	name, cred := a.hashes(key)
	var others []memoryRecord
	for _, r := range content.Refused {
		if r.Account != name {
			others = append(others, r)
		}
	}
	text, err := json.MarshalIndent(memoryContent{memoryVersion, edit(name, cred, others)}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(m.dir, memoryFile, append(text, '\n'))
}

// read gives what is recorded. No file is no record.
func (m *memory) read() (memoryContent, error) {
	text, err := readFile(m.path(), maxMemoryFile)
	if errors.Is(err, fs.ErrNotExist) {
		return memoryContent{}, nil
	}
	if err != nil {
		return memoryContent{}, err
	}
	var content memoryContent
	if err := json.Unmarshal(text, &content); err != nil {
		return memoryContent{}, fmt.Errorf("%s is damaged: %w", m.path(), err)
	}
	if content.Version != memoryVersion || len(content.Refused) > maxRefusals {
		return memoryContent{}, fmt.Errorf("%s is not of this version", m.path())
	}
	return content, nil
}

// key reads the key of the hashes, or makes it.
func (m *memory) key(create bool) ([]byte, error) {
	path := filepath.Join(m.dir, memoryKeyFile)
	key, err := readFile(path, memoryKeySize)
	switch {
	case err == nil && len(key) == memoryKeySize:
		return key, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case !create:
		return nil, fmt.Errorf("%s is missing or damaged", path)
	}
	key = make([]byte, memoryKeySize)
	_, _ = rand.Read(key) // never fails
	return key, writeFile(m.dir, memoryKeyFile, key)
}

// hashes gives the two keyed hashes by which an account is known.
func (a account) hashes(key []byte) (name, cred string) {
	schemes := make([]string, len(a.schemes))
	for i, s := range a.schemes {
		schemes[i] = string(s)
	}
	name = keyedHash(key, "account", a.proxy, a.cred.user)
	return name, keyedHash(key, append([]string{"credential", a.proxy, a.cred.user, a.cred.password.reveal()}, schemes...)...)
}

// keyedHash is HMAC-SHA-256 over the parts, each led by its length.
func keyedHash(key []byte, parts ...string) string {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		mac.Write(n[:])
		mac.Write([]byte(p))
	}
	return hex.EncodeToString(mac.Sum(nil))
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return text, err
}

// writeFile replaces dir/name, readable by its owner only, so that a crash
// leaves either the old content or the new.
func writeFile(dir, name string, content []byte) (err error) {
	f, err := os.CreateTemp(dir, name+".*.tmp") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return err
	}
	// The rename itself lasts when the directory is synced; where a directory
	// cannot be, this is as good as it gets.
	if d, derr := os.Open(dir); derr == nil {
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}
