// Package renew tests that what carries streams is replaced while they go on: a relay, a connector and a client of this
// process, whose certificates live seconds and whose TLS connections wear out after a moment.
package renew
