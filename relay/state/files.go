package state

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/ebbgate/ebbgate/certs"
)

// files are the paths of a state.
type files struct {
	dir      string
	database string
	key      string
	marker   string
	lock     string
	staged   string // an Init that is complete but not in place
	staging  string // an Init that is not complete
	ownKey   bool   // the key is where Init puts it by default
}

const (
	nameDatabase = "state.db"
	nameKey      = "state.key"
	nameMarker   = "state.marker"
)

func (o Options) files() files {
	in := func(name string) string { return filepath.Join(o.Dir, name) }
	f := files{
		dir: o.Dir, database: in(nameDatabase), key: in(nameKey), marker: in(nameMarker),
		lock: in("state.lock"), staged: in("state.init"), staging: in("state.init.new"), ownKey: true,
	}
	if o.KeyFile != "" && filepath.Clean(o.KeyFile) != f.key {
		f.key, f.ownKey = o.KeyFile, false
	}
	return f
}

var errLocked = errors.New("locked")

// exists tells whether there is anything at a path.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// maxFile bounds what is read of the key and the marker, in bytes.
const maxFile = 64 << 10

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return raw, err
}

// writeFile writes a file, readable by its owner alone, so that a crash leaves
// nothing of it or all. The caller holds the lock.
func writeFile(path string, content []byte) (err error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(fresh)
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes what was named, renamed and removed in a directory last.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil // cannot
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// masterKey is the content of the key file.
type masterKey struct {
	secret   certs.Secret
	instance string // empty: bound to none, as operators make it
}

// Format keeps the key out of what is printed.
func (masterKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

const keyTitle = "ebbgate state key 1"

// encode is the text of a key that Init makes. The check is for damage.
func (m masterKey) encode() []byte {
	text := fmt.Sprintf("%s\ninstance %s\nkey %s\n", keyTitle, m.instance, base64.StdEncoding.EncodeToString(m.secret.Reveal()))
	sum := sha256.Sum256([]byte(text))
	return []byte(text + "check " + hex.EncodeToString(sum[:8]) + "\n")
}

func parseKey(raw []byte) (masterKey, error) {
	damaged := errors.New("it is not a key, or damaged")
	if !bytes.HasPrefix(raw, []byte(keyTitle[:8])) {
		return parseBareKey(raw)
	}
	lines := strings.Split(string(raw), "\n")
	if len(lines) != 5 {
		return masterKey{}, damaged
	}
	instance, _ := strings.CutPrefix(lines[1], "instance ")
	text, _ := strings.CutPrefix(lines[2], "key ")
	secret, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || !validID(instance) {
		return masterKey{}, damaged
	}
	m := masterKey{instance: instance}
	if m.secret, err = certs.SecretFrom(secret); err != nil || !bytes.Equal(m.encode(), raw) {
		return masterKey{}, damaged
	}
	return m, nil
}

// parseBareKey reads a key that an operator made.
func parseBareKey(raw []byte) (masterKey, error) {
	text := strings.TrimSpace(string(raw))
	secret, err := hex.DecodeString(text)
	if err != nil {
		secret, err = base64.StdEncoding.Strict().DecodeString(text)
	}
	if err == nil {
		var m masterKey
		if m.secret, err = certs.SecretFrom(secret); err == nil {
			return m, nil
		}
	}
	return masterKey{}, errors.New("it is not a key, or damaged; a key is 32 bytes in base64, or what ebbgate relay init makes")
}

// marker is what is known of the instance outside the database.
type marker struct {
	instance    string
	generations []generation
}

// generation is one of the CA.
type generation struct {
	number int
	digest [32]byte // SHA-256 of the certificate
}

func markerOf(instance string, authorities []authority) (m marker) {
	m.instance = instance
	for _, a := range authorities {
		m.generations = append(m.generations, generation{a.Generation(), sha256.Sum256(a.Certificate().Raw)})
	}
	return m
}

// same tells whether the marker is of a snapshot's instance and CA.
func (m marker) same(s *snapshot) bool {
	own := markerOf(fmt.Sprint(s.instance.columns["id"]), s.authorities)
	return own.instance == m.instance && slices.Equal(own.generations, m.generations)
}

const markerTitle = "ebbgate state marker 1"

func (m marker) encode(k *keyring) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\ninstance %s\n", markerTitle, m.instance)
	for _, g := range m.generations {
		fmt.Fprintf(&b, "ca %d %x\n", g.number, g.digest)
	}
	fmt.Fprintf(&b, "mac %x\n", k.file(b.Bytes()))
	return b.Bytes()
}

// markerInstance reads the instance's id, which the keys of the seal depend on.
func markerInstance(raw []byte) (string, error) {
	rest, ok := strings.CutPrefix(string(raw), markerTitle+"\ninstance ")
	instance, _, _ := strings.Cut(rest, "\n")
	if !ok || !validID(instance) {
		return "", errors.New("it is not a marker, or damaged")
	}
	return instance, nil
}

// parseMarker reads a marker and checks its seal.
func parseMarker(raw []byte, k *keyring) (m marker, err error) {
	if m.instance, err = markerInstance(raw); err != nil {
		return marker{}, err
	}
	lines := strings.SplitAfter(string(raw), "\n")
	for _, line := range lines[2:] {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "ca" {
			break
		}
		number, err := strconv.Atoi(fields[1])
		digest, hexErr := hex.DecodeString(fields[2])
		g := generation{number: number}
		if err != nil || hexErr != nil || copy(g.digest[:], digest) != len(g.digest) {
			break
		}
		m.generations = append(m.generations, g)
	}
	if !hmac.Equal(m.encode(k), raw) {
		return marker{}, errors.New("its seal is broken: it is damaged, or state.key is not the key that belongs to it")
	}
	return m, nil
}

// newID makes the id of an instance, a gateway or a token.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func validID(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 16 && hex.EncodeToString(raw) == s
}
