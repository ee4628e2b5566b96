package relay

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ebbgate/ebbgate/relay/ingress"
	"github.com/ebbgate/ebbgate/relay/state"
)

// place is a store as the relay knows it.
type place struct {
	gateway, store string
	port           int // 0: the store's own, whichever it is
}

func (p place) String() string { return p.gateway + "/" + p.store }

// resolve finds the store that a target names for a job: STORE.GATEWAY where the
// job may dial that, else the one store among those that it may dial that has
// such an alias. What the job may not dial, it does not learn of.
func (d *dialer) resolve(owner jobKey, target ingress.Target) (place, error) {
	store, gateway, ok := strings.Cut(target.Host, ".")
	named := place{gateway, store, target.Port}
	job, err := d.r.state.Job(owner.tenant, owner.job)
	if err != nil || job.Revoked || ok && job.Allows(gateway, store) {
		return named, nil // find looks at it
	}
	places, otherPort := d.aliased(job, target)
	switch {
	case len(places) == 1:
		return places[0], nil
	case len(places) > 1:
		return place{}, failure("alias-ambiguous", "gateway", "name the store as <store>.<gateway>, or allow the job only one of them",
			"%s is an alias of %s, all of which job %s may dial", target, strings.Join(names(places), " and of "), owner.job)
	case otherPort != 0:
		return place{}, failure("port-mismatch", "store", fmt.Sprintf("use port %d, or 0", otherPort), "alias %s is on port %d, not %d", target.Host, otherPort, target.Port)
	}
	if !ok || strings.Contains(gateway, ".") {
		return place{}, failure("job-not-allowed", "relay", "name the store as <store>.<gateway>, or by an alias in the connector's configuration", "%q names no store that job %s may dial", target.Host, owner.job)
	}
	return named, nil
}

// aliased lists the stores with the alias that the job may dial, as nodes
// announce them or did before they went offline. Where only the port differs, it
// gives one port that would do.
func (d *dialer) aliased(job state.Job, target ingress.Target) (list []place, otherPort int) {
	look := func(gateway, store string, aliases []string) {
		if len(aliases) == 0 || !job.Allows(gateway, store) {
			return
		}
		for _, alias := range aliases {
			a, err := ingress.ParseTarget(alias)
			switch {
			case err != nil || a.Host != target.Host:
			case target.Port != 0 && a.Port != target.Port:
				otherPort = a.Port
			default:
				if p := (place{gateway: gateway, store: store}); !slices.Contains(list, p) {
					list = append(list, p)
				}
			}
		}
	}
	gateways := make(map[string]bool)
	for _, entry := range job.Allow {
		gateway, _, _ := strings.Cut(entry, "/")
		gateways[gateway] = true
	}
	for _, gateway := range slices.Sorted(maps.Keys(gateways)) {
		for _, n := range d.r.state.Nodes(job.Tenant, gateway) {
			for _, s := range n.Stores {
				look(gateway, s.Name, s.Aliases)
			}
		}
		for _, n := range d.r.registry.gateway(job.Tenant, gateway) { // what the state could not take
			for _, s := range n.stores() {
				look(gateway, s.Name, s.Aliases)
			}
		}
	}
	return list, otherPort
}

func names(places []place) (list []string) {
	for _, p := range places {
		list = append(list, p.String())
	}
	return list
}
