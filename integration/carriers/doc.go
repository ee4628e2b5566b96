// Package carriers holds the one suite that every carrier passes: a relay, a
// connector and jobs, with each carrier forced at both ends, from enrolment to
// the ends of streams. It prints what it saw as a table of carrier and case.
//
// Here connections are direct, or through a proxy that looks into TLS; package
// corporate has the same carriers through Squid.
package carriers
