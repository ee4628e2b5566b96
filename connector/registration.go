package connector

import (
	"bytes"
	"cmp"
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
	"github.com/ebbgate/ebbgate/tunnel"
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
	// Relays are all of the instance, as one of them told last; empty: there is
	// only that one.
	Relays []tunnel.RelayInfo `json:"relays,omitempty"`
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
	r.Relays = tunnel.KnownRelays(r.Relays, id.TrustDomain)
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

// endpoint is where the relay was when the node was registered.
func (r *registration) endpoint() tunnel.Endpoint {
	return tunnel.Endpoint{Host: r.Relay, TLSPort: r.TLS, QUICPort: r.QUIC, HTTPPort: r.HTTP}
}

// seeds are the relays that the configuration names, with the registration's
// ports where it names none; else the registration's.
func (r *registration) seeds(named []config.Endpoint) (list []tunnel.Endpoint) {
	if len(named) == 0 {
		return []tunnel.Endpoint{r.endpoint()}
	}
	for _, e := range named {
		list = append(list, tunnel.Endpoint{
			Host: e.Host, TLSPort: cmp.Or(e.TLS, r.TLS), QUICPort: cmp.Or(e.QUIC, r.QUIC), HTTPPort: cmp.Or(e.HTTP, r.HTTP),
		})
	}
	return list
}

// saveRegistration writes what is known of the relays now.
func (d *stateDir) saveRegistration(r *registration) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return d.replace(fileRegistration, append(raw, '\n'))
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
