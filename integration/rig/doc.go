// Package rig runs relays, connectors and job-side commands as processes of the ebbgate binary, which it knows only
// by its commands, its configuration and the JSON that it prints.
//
// Build makes the binary, or takes the one that EBBGATE_BINARY names. A Program is that binary on some host; it runs
// commands and starts the parts. The parts end when their process is killed or when this process ends; the caller
// removes their directories.
package rig
