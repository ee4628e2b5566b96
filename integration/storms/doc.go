// Package storms holds tests in which many or hostile peers press on a relay and a connector at once: connections
// that say nothing, tokens that are wrong, streams that are opened and reset, peers with a certificate that break the
// protocol, and processes with few descriptors. Each storm ends with reasons that are named and counted, with memory,
// goroutines and descriptors back where they were, and with nothing else touched: who is legitimate gets through in
// the middle of it.
//
// The programs are processes of the ebbgate binary. What attacks in great numbers is a process of this package's test
// binary, so that its descriptors are its own.
package storms
