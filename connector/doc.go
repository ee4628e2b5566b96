// Package connector is the program that runs on a node, inside the firewall: it
// registers the node with a relay, keeps sessions to it that are outbound only,
// and dials stores for jobs.
//
// # Use
//
// [Register] makes a node of this machine, once: it trades an authentication
// key for an identity and writes both the identity and where the relay is into
// the state directory. [New] and [Connector.Run] then serve until the context
// ends. [Status] asks the connector that runs on a state directory how it is.
//
// A configuration that changed takes the place of the one before while streams
// go on: when its file changes, on Config.Hangup, and by [Reload]. Its stores
// count from the next dial on, and are told to the relay at once; sessions move to
// another way when it works. One that is wrong changes nothing.
//
// Where several relays share a state, sessions are kept to two of them: those that
// the configuration lists, or that relays tell of. Bundles, runs, health and the
// certificate are the node's, whichever relay a dial comes by.
//
// # Who has the last word
//
// The relay matches and routes, this package decides. A dial needs a grant that
// a relay signed for this node and for the ingress at the other end of the
// lane, a store of the node's own configuration that serves the job and that
// kind of ingress, and an address that the policy does not refuse. The name is
// resolved here, every address is checked, and exactly a checked address is
// dialled.
//
// # The state directory
//
// It has mode 0700 and belongs to one connector at a time, which holds a lock
// on the file lock. registration.json says which node this is and where its
// relays are, identity.pem holds the key and the certificate, carriers.json which
// carrier worked last, enrolment.pem the key of a registration that is under
// way. Files are replaced whole and synchronously: a crash or a full disk leaves
// the old one. status.sock is where [Status] asks.
//
// # What it does not do
//
// It listens on nothing but that socket, starts nothing in constructors and
// leaves nothing running when Run returns. It keeps no bytes of streams: that
// is package tunnel/bundle.
package connector
