// Package faults holds the tests of what streams outlive and of how they end when they cannot: real processes that are
// killed, stopped, restarted, cut off and lied to in mid-copy, and the oracle's verdict on every byte.
//
// Faults are short, so that the suite is; with EBBGATE_FAULTS=full they last as long as they are promised to be outlived:
// processes stand still for 20 s and links are cut for 30 s. What is random begins with a seed, which a failure shows and
// EBBGATE_SEED sets. EBBGATE_SOAK=20m has TestSoak do everything at random for so long; make soak does.
package faults
