//go:build !unix

package main

import (
	"syscall"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// raiseFiles has nothing to raise here.
func raiseFiles() error { return nil }

func freeze(*proc.Process) error { return &notRunError{"processes cannot be stopped here"} }
func thaw(*proc.Process) error   { return nil }

func as(int, int) *syscall.SysProcAttr { return nil }
