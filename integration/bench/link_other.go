//go:build !linux

package main

import (
	"context"
	"time"
)

// wanLink is the long way, which is there on Linux only.
type wanLink struct{}

func startLink(context.Context) (*wanLink, error) { return nil, &notRunError{"needs Linux"} }

func (*wanLink) set(condition) (near, far place, err error) { return here, here, nil }
func (*wanLink) moved() uint64                              { return 0 }
func (*wanLink) spent() time.Duration                       { return 0 }
func (*wanLink) close()                                     {}
