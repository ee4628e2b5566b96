// Package demo holds the parts that `ebbgate demo` adds to the real programs,
// so that the whole path can be watched on one machine without privileges:
//
//   - [Proxy], a corporate HTTP proxy that demands NTLM and checks it (MS-NLMP,
//     NTLMv2 only), and that lets nothing out but CONNECT to the relay;
//   - [Store], an object store: HTTP GET, HEAD and PUT of files in a folder;
//   - [Job], which copies objects out of the store and into it through an HTTP
//     CONNECT ingress, as any HTTP client would;
//   - [Run], which starts relay and connector as child processes of the same
//     binary, puts the proxy between them, runs the job and shows what happened.
//
// The proxy, the store and the job run in the process that calls Run: they
// stand for what is there without Ebbgate. Everything between them is real.
//
// Run may be called once at a time in a process. It leaves nothing behind:
// children end with their parent however it ends (see [EndWithParent]), and the
// folder with state and data is removed, unless the demo itself is killed.
package demo
