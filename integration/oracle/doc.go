// Package oracle says whether a stream told the truth.
//
// Content is a function of a seed and an offset, so both ends can make it without sharing anything, and a reader
// can name the first wrong byte and where it came from. A store obeys a Script that the job sends it: send so many
// bytes, then end cleanly, reset, or fall silent. Drain reads a stream to its end and gives one of exactly two
// outcomes: complete, with a length and a digest, or an error. Whatever happens underneath, a stream may never be
// complete with other bytes than the script ordered; Outcome.Honest checks that.
//
// The store's sockets carry linger 0 from birth and are disarmed after a clean end, so that a killed store resets
// its connections as an honest program does. A program that calls ChildMain first in its main function can run
// the store as a process of its own, to be killed.
package oracle
