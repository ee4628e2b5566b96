// Package certs is who everybody is: the relay's certificate authority, the
// identities that it issues, the keys and tokens that newcomers show, and the
// TLS configurations that verify all of them.
//
// The relay holds an [Authority] and issues certificates with it, taking nothing
// from a request but its public key ([CheckCSR]). Connectors and clients enrol
// once with [PinnedConfig], which trusts exactly the CA whose [Pin] came with
// their key or token, keep their certificate in a [Holder], and speak with
// [ClientConfig] and [ServerConfig] from then on. Private keys are made where
// they are used and never leave the machine.
//
// An identity is a SPIFFE URI in a certificate's one URI SAN. It is compared as
// a whole and explicitly; that a certificate is the CA's says nothing about who
// its holder is.
package certs
