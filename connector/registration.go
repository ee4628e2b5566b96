package connector

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
)

// registration is registration.json: which node this machine is, and where its
// relay was when it was registered.
type registration struct {
	Version    int       `json:"version"`
	Identity   string    `json:"identity"`
	Relay      string    `json:"relay"` // host
	TLS        int       `json:"tls"`   // ports
	QUIC       int       `json:"quic,omitempty"`
	HTTP       int       `json:"http,omitempty"`
	Registered time.Time `json:"registered"`
}

const registrationVersion = 1

// parseRegistration reads and checks what the file says.
func parseRegistration(raw []byte) (*registration, error) {
	r := new(registration)
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(r); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("it ends too early")
		}
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	id, err := certs.ParseIdentity(r.Identity)
	port := func(p int) bool { return p >= 0 && p < 1<<16 }
	switch {
	case r.Version > registrationVersion:
		return nil, fmt.Errorf("it has version %d, which this program does not know", r.Version)
	case r.Version != registrationVersion:
		return nil, fmt.Errorf("it has version %d", r.Version)
	case err != nil:
		return nil, err
	case id.Role != certs.RoleNode:
		return nil, fmt.Errorf("it is of %s, which is no node", r.Identity)
	case r.Relay == "" || !port(r.TLS) || !port(r.QUIC) || !port(r.HTTP) || r.TLS == 0:
		return nil, errors.New("it does not say where the relay is")
	}
	return r, nil
}

// loadNode reads who this node is. Damage is an error that says what to do.
func (d *stateDir) loadNode() (*registration, *certs.Saved, error) {
	raw, err := d.read(fileRegistration)
	if errors.Is(err, fs.ErrNotExist) {
		if d.has(certs.IdentityFile) {
			return nil, nil, d.corrupt(fileRegistration, errors.New("the file is missing"))
		}
		return nil, nil, failure("not-registered", "registration", err, "register it: ebbgate connector register --relay HOST --key-file FILE --config connector.yaml",
			"this machine is not registered: there is no %s", d.file(fileRegistration))
	}
	if err != nil {
		return nil, nil, d.unreadable(fileRegistration, err)
	}
	r, err := parseRegistration(raw)
	if err != nil {
		return nil, nil, d.corrupt(fileRegistration, err)
	}
	saved, err := certs.LoadIdentity(d.path)
	var damaged *certs.CorruptError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, d.corrupt(certs.IdentityFile, errors.New("the file is missing"))
	case errors.As(err, &damaged):
		return nil, nil, err
	case err != nil:
		return nil, nil, d.unreadable(certs.IdentityFile, err)
	}
	id, err := savedIdentity(saved)
	if err == nil && id.String() != r.Identity {
		err = fmt.Errorf("it is of %s, but %s holds the certificate of %s", r.Identity, certs.IdentityFile, id)
	}
	if err != nil {
		return nil, nil, d.corrupt(fileRegistration, err)
	}
	return r, saved, nil
}

func (d *stateDir) corrupt(name string, err error) *Error {
	return failure("registration-corrupt", "registration", err,
		"restore the state directory from a backup, or remove it and register the machine again under another name",
		"%s is damaged: %v", d.file(name), reason(err))
}

func (d *stateDir) unreadable(name string, err error) *Error {
	return failure("state-dir-unusable", "config", err, "see that the file belongs to the user that the connector runs as",
		"%s cannot be read: %v", d.file(name), reason(err))
}

// savedIdentity is the name in an identity's certificate.
func savedIdentity(s *certs.Saved) (certs.Identity, error) {
	c, err := s.Certificate()
	if err != nil {
		return certs.Identity{}, err
	}
	return certs.CertificateIdentity(c.Leaf)
}

// endpoint is where the relay is: what the configuration says comes first.
func (r *registration) endpoint(override *config.Endpoint) config.Endpoint {
	e := config.Endpoint{Host: r.Relay, TLS: r.TLS, QUIC: r.QUIC, HTTP: r.HTTP}
	if override == nil {
		return e
	}
	e.Host = override.Host
	if override.TLS != 0 {
		e.TLS = override.TLS
	}
	if override.QUIC != 0 {
		e.QUIC = override.QUIC
	}
	if override.HTTP != 0 {
		e.HTTP = override.HTTP
	}
	return e
}

// enrolmentKey is the key that this machine registers with: the one of an
// attempt whose end is not known, or a new one, which is on disk before the
// relay hears of it. The relay takes a key that it knows for the node that it
// is, so an attempt whose answer was lost can be made again.
func (d *stateDir) enrolmentKey() (ed25519.PrivateKey, error) {
	if raw, err := d.read(fileEnrolment); err == nil {
		if block, _ := pem.Decode(raw); block != nil {
			if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := parsed.(ed25519.PrivateKey); ok {
					return key, nil
				}
			}
		}
	}
	key, err := certs.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("connector: register: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("connector: register: %w", err)
	}
	if err := d.replace(fileEnrolment, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, saveError(d.path, err)
	}
	return key, nil
}
