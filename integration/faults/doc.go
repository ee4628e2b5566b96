// Package faults holds the tests of what streams outlive and of how they end when they cannot: real processes that are
// killed, stopped, restarted and cut off in mid-copy, and the oracle's verdict on every byte.
package faults
