// Package corporate holds the tests that need the lab: a company network with a real domain controller, real proxies
// and real stores. They run as root on Debian 12; elsewhere they say so and skip.
package corporate
