// Package lab brings up a corporate network on one machine: real programs in network namespaces of their own.
//
//	corp ──┐
//	dc   ──┤ 10.77.1.0/24 ── proxy ── 10.77.2.0/24 ── cloud
//
// Host corp is the company's network with its stores (PostgreSQL, nginx); dc is a Samba Active Directory domain
// controller for CORP.TEST; proxy is the router, whose firewall forwards nothing, and the domain member on which
// the Squids run; cloud is the world outside. Names of the cloud do not resolve in corp. So the only way out of
// corp are the proxies, until AllowTCP or AllowUDP opens the firewall.
//
// The namespaces have no names. Each host is one thread of the test process, which forks the host's programs, and
// the kernel kills those when that thread ends; the daemons among them lead a process namespace each, so that what
// they forked dies with them. So nothing outlives the test, even if that is killed, labs of different processes
// never meet although they use the same addresses, and the machine's own configuration is never touched: a host's
// files, such as /etc/samba, are mounted where only that host sees them. Directories that a killed test left behind
// are removed by the next one.
//
// It needs Linux, root, and the Debian packages of integration/packages.txt; Missing tells.
package lab
