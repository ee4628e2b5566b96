// Package integration holds the tests that run Ebbgate against real things: real proxies and a real domain
// controller, real stores, killed processes, cut connections. It treats the ebbgate binary as a black box.
//
//   - oracle: content that can be checked byte by byte, and stores that end their connections as told.
//   - proc: child processes that never outlive the test.
//   - rig: a relay, connectors and job-side commands, as processes of the ebbgate binary.
//   - lab: a corporate network on one machine, with domain controller, proxies and stores. Needs root.
//   - loopback: tests that need nothing but the binary.
//   - corporate: tests that need the lab; without root or the packages of packages.txt they say so and skip.
//   - bench: the measurements of make bench.
//
// The binary is built once a test run; EBBGATE_BINARY names a ready one instead.
package integration
