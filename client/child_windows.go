package client

import "os"

// passedOn are caught, so that this process outlives its child: the console sends
// them to both.
var passedOn = []os.Signal{os.Interrupt}

func exitCode(state *os.ProcessState) int { return state.ExitCode() }

func sentByTerminal(os.Signal) bool { return true }
