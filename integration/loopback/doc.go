// Package loopback holds the tests that need nothing but the ebbgate binary: relay, connectors and job-side commands
// on loopback, without privileges.
package loopback
