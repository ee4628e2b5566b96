// Package stores holds the tests with real programs as stores and as clients: what each client copies by Ebbgate is
// compared byte for byte, and a copy whose server or connector is killed must fail in the client's own words.
//
// The commands are those of docs/stores.md: its code blocks are run as they stand there. Only its ports, names and
// addresses are replaced by those of the test, which has one relay, one gateway and, for each store, a server and a
// connector of its own, all on loopback addresses.
//
// Servers and clients are Debian's (integration/packages.txt; rclone is among them because its Go module takes minutes
// to build). The S3 server is gofakes3 in a process of its own: it checks no signatures, but builds in seconds where
// versitygw takes a minute of both cores and brings sixty modules. A test whose programs are missing names their package
// and skips.
package stores
