package proxycfg

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	ntlmssp "github.com/Azure/go-ntlmssp"
)

const (
	maxNTLM = 16 << 10 // bytes of a challenge; a domain controller's has about 300

	// requestTarget is NTLMSSP_REQUEST_TARGET of MS-NLMP, section 2.2.2.5, in the
	// first byte of the flags. The library leaves it out.
	requestTarget   = 0x04
	negotiateFlags  = 12
	ntlmMessageType = 8
)

// ntlmNegotiate is the first message of the handshake, as the header wants it.
func ntlmNegotiate() (string, error) {
	m, err := ntlmssp.NewNegotiateMessage("", "")
	if err != nil {
		return "", err
	}
	m[negotiateFlags] |= requestTarget
	return base64.StdEncoding.EncodeToString(m), nil
}

// ntlmAuthenticate answers the proxy's challenge.
func ntlmAuthenticate(token, user, password string) (string, error) {
	if base64.StdEncoding.DecodedLen(len(token)) > maxNTLM {
		return "", errors.New("challenge is too large")
	}
	challenge, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(token, "="))
	if err != nil {
		return "", errors.New("challenge is not base64")
	}
	if len(challenge) <= ntlmMessageType || challenge[ntlmMessageType] != 2 {
		return "", errors.New("challenge is not NTLM's second message")
	}
	m, err := caught(func() ([]byte, error) {
		return ntlmssp.NewAuthenticateMessage(challenge, user, password, nil)
	})
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(m), nil
}

// caught makes a panic of f an error: what comes from a proxy must not be able
// to end the process.
func caught(f func() ([]byte, error)) (m []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			m, err = nil, fmt.Errorf("challenge cannot be read: %v", v)
		}
	}()
	return f()
}
