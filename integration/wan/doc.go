// Package wan is a long, narrow and lossy way between two networks of one machine: two network namespaces with a TUN
// device each, and between the devices a forwarder of packets in this process.
//
//	near (the cloud: job, relay)  10.78.0.1 ══ delay, rate, loss, cuts ══ 10.78.0.2  far (the company: node, store)
//
// Each way has a Shape of its own, which may be changed while packets travel: a bottleneck of so many bytes a second,
// before which a queue of bounded bytes drops what comes when it is full, a delay, and packets that are lost at
// random, repeatably by a seed. Set a congestion control for each side; NoChoice starts processes that cannot choose
// another one, as on a kernel that has but one.
//
//	link, err := wan.Start(wan.Long)                   // 80 ms, 200 Mbit/s
//	defer link.Close()
//	err = link.Congestion("cubic")                     // the default of new connections on both sides
//	p, err := proc.Start(proc.Spec{Path: "sshd", Where: link.Near})
//	link.Shape(wan.Long.Losing(0.01))
//	link.Cut(wan.ToFar, true)                          // one way only
//
// As in package lab, the namespaces have no names and end with this process, so that nothing outlives it and the
// machine's own configuration is never touched. It needs Linux, root, /dev/net/tun and the program ip; Missing tells.
package wan
