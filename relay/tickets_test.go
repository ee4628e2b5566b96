package relay

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// A lane's token serves once, in time, what it was made for, and who it was made
// for.
func TestTickets(t *testing.T) {
	client := certs.Identity{TrustDomain: "d", Role: certs.RoleJob, Tenant: "default", Name: "copy"}
	other, foreign := client, client
	other.Name, foreign.Tenant = "other", "foreign"
	at := nodeKey{"default", "corp", "n1"}
	for name, use := range map[string]struct {
		made string // "client" or "node": who brings the token
		use  func(tk *tickets, token string) bool
		want bool
	}{
		"redeemed":                        {"client", redeemedBy(client), true},
		"redeemed by another job":         {"client", redeemedBy(other), false},
		"redeemed by another tenant's":    {"client", redeemedBy(foreign), false},
		"redeemed that is a node's":       {"node", redeemedBy(client), false},
		"claimed":                         {"client", claimed, true},
		"claimed that is a node's":        {"node", claimed, false},
		"arrived":                         {"node", arrived, true},
		"arrived that is a client's":      {"client", arrived, false},
		"unknown":                         {"client", func(tk *tickets, _ string) bool { return claimed(tk, "unknown") }, false},
		"redeemed, and it was claimed":    {"client", both(claimed, redeemedBy(client)), false},
		"claimed, and it was redeemed":    {"client", both(redeemedBy(client), claimed), false},
		"redeemed twice":                  {"client", both(redeemedBy(client), redeemedBy(client)), false},
		"claimed twice":                   {"client", both(claimed, claimed), false},
		"arrived twice":                   {"node", both(arrived, arrived), false},
		"redeemed after another's failed": {"client", func(tk *tickets, s string) bool { return !redeemedBy(other)(tk, s) && redeemedBy(client)(tk, s) }, true},
		"redeemed late":                   {"client", late(redeemedBy(client)), false},
		"claimed late":                    {"client", late(claimed), false},
		"arrived late":                    {"node", late(arrived), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tk := newTickets()
				token, err := "", error(nil)
				if use.made == "client" {
					token, err = tk.issue(client, at)
				} else {
					var done func()
					token, _, done, err = tk.expect(client, at)
					defer done()
				}
				if err != nil || len(token) < 32 {
					t.Fatalf("token %q, %v", token, err)
				}
				if got := use.use(tk, token); got != use.want {
					t.Errorf("%v, want %v", got, use.want)
				}
			})
		})
	}
}

func redeemedBy(client certs.Identity) func(*tickets, string) bool {
	return func(tk *tickets, token string) bool {
		n, err := tk.redeem(token, client)
		return err == nil && n == nodeKey{"default", "corp", "n1"}
	}
}

func claimed(tk *tickets, token string) bool {
	held, err := tk.claim(token)
	return err == nil && held.node == nodeKey{"default", "corp", "n1"} && held.ingress.Name == "copy"
}

func arrived(tk *tickets, token string) bool {
	a, b := net.Pipe()
	_ = b.Close()
	return tk.arrive(&tunnel.Peeked{Conn: a, Token: token})
}

func both(first, second func(*tickets, string) bool) func(*tickets, string) bool {
	return func(tk *tickets, token string) bool { return first(tk, token) && second(tk, token) }
}

func late(use func(*tickets, string) bool) func(*tickets, string) bool {
	return func(tk *tickets, token string) bool {
		time.Sleep(ticketLife + time.Second)
		return use(tk, token)
	}
}

// So many tokens wait at once and no more; those that are too old make room.
func TestTicketsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tk := newTickets()
		at := nodeKey{"default", "corp", "n1"}
		for range maxTickets {
			if _, err := tk.issue(certs.Identity{}, at); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tk.issue(certs.Identity{}, at); codeOf(err) != "relay-busy" {
			t.Errorf("one more: %v", err)
		}
		time.Sleep(ticketLife + time.Second)
		if _, err := tk.issue(certs.Identity{}, at); err != nil || len(tk.waiting) != 1 {
			t.Errorf("later: %v, with %d", err, len(tk.waiting))
		}
	})
}
