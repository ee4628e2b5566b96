package proxycfg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxName     = 512
	maxPassword = 1024
	redacted    = "[redacted]"
)

// secret is a password. It prints as [redacted]; the pointer keeps it out of
// sight where fmt cannot see the methods, in an unexported field.
type secret struct{ text *string }

func newSecret(s string) secret { return secret{&s} }

func (s secret) reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

func (secret) String() string               { return redacted }
func (secret) GoString() string             { return redacted }
func (secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// Format covers the verbs that look past String.
func (secret) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, redacted) }

// credential is a user name and a password as they were at one time.
type credential struct {
	user     string
	password secret
	// version grows whenever the password file changed in content or in
	// modification time.
	version int
}

func (c *credential) same(d *credential) bool {
	return d != nil && c.user == d.user && c.password.reveal() == d.password.reveal()
}

// source is where a proxy's credential comes from: a password file, or the
// proxy's URL.
type source struct {
	user string
	file string // empty: last is the credential, for good

	turn     chan struct{} // holds one token while the fields below are used
	last     *credential
	modified time.Time
	warned   fs.FileMode // the mode that was complained about
}

// load gives the credential as it is now.
func (s *source) load(ctx context.Context, logger *slog.Logger) (*credential, error) {
	if s.file == "" {
		return s.last, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, errContext(ctx, "read password file")
	}
	text, info, err := readPasswordFile(s.file)
	if err != nil {
		return nil, err
	}
	if open := info.Mode().Perm() & 0o077; open != 0 && open != s.warned && runtime.GOOS != "windows" {
		logger.Warn("the password file can be read by others than its owner: chmod 600 it",
			"file", s.file, "mode", info.Mode().Perm().String())
		s.warned = open
	}
	if s.last == nil || s.last.password.reveal() != text || !info.ModTime().Equal(s.modified) {
		next := &credential{user: s.user, password: newSecret(text), version: 1}
		if s.last != nil {
			next.version = s.last.version + 1
		}
		s.last, s.modified = next, info.ModTime()
	}
	return s.last, nil
}

// readPasswordFile reads the only line of a file.
func readPasswordFile(path string) (string, fs.FileInfo, error) {
	fail := func(what, advice string, err error) (string, fs.FileInfo, error) {
		return "", nil, &Error{
			code: CodePasswordFile, hop: hopConfig, Key: "proxy.password_file", err: err,
			message: "proxycfg: password file " + path + ": " + what, advice: advice,
		}
	}
	const write = "write the password into it as its only line, in UTF-8"
	// Opening a FIFO would wait for its writer.
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return fail("is not a regular file", write, nil)
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail("does not exist", "create it, or correct proxy.password_file", err)
	case errors.Is(err, fs.ErrPermission):
		return fail("permission denied", "let the user that this program runs as read it", err)
	case err != nil:
		return fail("cannot be opened: "+pathReason(err), "check proxy.password_file", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPassword+16))
	if err == nil {
		info, err = f.Stat()
	}
	if err != nil {
		return fail("cannot be read: "+pathReason(err), "check the file and its disk", err)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // Notepad's byte order mark
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if err := checkPassword(line); err != nil {
		return fail(err.Error(), write, err)
	}
	return line, info, nil
}

// checkPassword says what is wrong with a password, never repeating it.
func checkPassword(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > maxPassword:
		return fmt.Errorf("is longer than %d bytes", maxPassword)
	case strings.ContainsAny(s, "\r\n"):
		return errors.New("has more than one line")
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return errors.New("is not UTF-8 text")
	}
	return nil
}

// pathReason is a file error without the path, which the message has already.
func pathReason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
