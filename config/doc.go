// Package config turns relay.yaml and connector.yaml, the environment and flags
// into typed values that need no further checks.
//
// A file is decoded strictly first: an unknown key, a key written twice, an
// anchor, a second document or a value of the wrong type is a [Problem] with
// its line, and a misspelt key comes with the nearest known one. Only then are
// the sources merged: a flag overrules the environment, the environment the
// file, the file the default.
//
// Key state.dir of relay.yaml is EBBGATE_RELAYD_STATE_DIR in the environment
// and --state-dir as a flag; for connector.yaml the prefix is
// EBBGATE_CONNECTOR_. Lists are separated by commas there; stores and ingress.ports are YAML. A
// variable with the prefix that is no key is an error, too.
//
//	relay, err := config.LoadRelay(config.Options{File: "relay.yaml"})
//
// All problems of all sources are reported at once, in one [*Error].
//
// The package reads the file and nothing else: it does not look whether the
// files and folders that values name exist, resolves no names, and keeps no
// state. Its functions may be called from any goroutine.
package config
