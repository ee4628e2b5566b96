package main

// What happens to a relay while a stream flows.
const (
	faultFrozen    = "frozen"
	faultKilled    = "killed"
	faultRestarted = "restarted"
)
