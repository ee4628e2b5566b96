// Package house has no code, only tests of how the repository is kept: which
// way imports run, that packages say what they are, that files stay readable,
// that nothing waits by sleeping. They read the source files of all systems,
// without building them.
package house
