package state

import (
	"context"
	"slices"
	"strings"

	"github.com/ebbgate/ebbgate/certs"
)

const listGateways = "ebbgate gateway list shows the gateways"

// CreateGateway makes a gateway with two fresh authentication keys.
func (s *State) CreateGateway(ctx context.Context, tenant, name string) (Gateway, error) {
	if err := checkNames("tenant", tenant, "gateway", name); err != nil {
		return Gateway{}, err
	}
	err := s.change(ctx, "creating the gateway", func(now *snapshot) ([]edit, error) {
		if err := now.hasTenant(tenant); err != nil {
			return nil, err
		}
		if now.gateways[gatewayKey{tenant, name}] != nil {
			return nil, already("gateway", name, "choose another name, or use this one: "+listGateways)
		}
		id := newID()
		return []edit{insertion(tableGateways, map[string]any{
			"tenant": tenant, "name": name, "id": id, "created": s.opt.now().UnixMicro(),
			Key1: s.keys.encrypt(certs.NewSecret().Reveal(), gatewayPlace(id, Key1)),
			Key2: s.keys.encrypt(certs.NewSecret().Reveal(), gatewayPlace(id, Key2)),
		})}, nil
	})
	if err != nil {
		return Gateway{}, err
	}
	return s.Gateway(tenant, name)
}

func (s *snapshot) hasTenant(name string) error {
	if _, ok := s.tenants[name]; !ok {
		return notFound("tenant", name, "the tenant that exists from the start is "+DefaultTenant)
	}
	return nil
}

func (s *snapshot) gateway(tenant, name string) (*gateway, error) {
	if g := s.gateways[gatewayKey{tenant, name}]; g != nil {
		return g, nil
	}
	return nil, notFound("gateway", name, listGateways)
}

// Gateway finds a gateway: [ErrNotFound] where there is none.
func (s *State) Gateway(tenant, name string) (Gateway, error) {
	g, err := s.current.Load().gateway(tenant, name)
	if err != nil {
		return Gateway{}, err
	}
	return g.Gateway, nil
}

// Gateways are a tenant's, sorted by name.
func (s *State) Gateways(tenant string) []Gateway {
	var list []Gateway
	for key, g := range s.current.Load().gateways {
		if key.tenant == tenant {
			list = append(list, g.Gateway)
		}
	}
	slices.SortFunc(list, func(a, b Gateway) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// GatewayKeys are a gateway's authentication keys in the form that nodes
// register with. They are secrets.
func (s *State) GatewayKeys(tenant, name string) (key1, key2 string, err error) {
	now := s.current.Load()
	g, err := now.gateway(tenant, name)
	if err != nil {
		return "", "", err
	}
	encode := func(secret certs.Secret) string {
		return certs.Key{GatewayID: g.ID, Secret: secret, Pin: now.pin()}.Encode()
	}
	return encode(g.key1), encode(g.key2), nil
}

// RegenerateKey replaces one of a gateway's keys, slot [Key1] or [Key2], and
// gives the new one. The old one is refused from now on.
func (s *State) RegenerateKey(ctx context.Context, tenant, name, slot string) (string, error) {
	if slot != Key1 && slot != Key2 {
		return "", invalid("slot-invalid", "name key1 or key2", "%.40q is no slot of a gateway's keys", slot)
	}
	secret := certs.NewSecret()
	var key certs.Key
	err := s.change(ctx, "regenerating the key", func(now *snapshot) ([]edit, error) {
		g, err := now.gateway(tenant, name)
		if err != nil {
			return nil, err
		}
		key = certs.Key{GatewayID: g.ID, Secret: secret, Pin: now.pin()}
		return []edit{update(g.row, map[string]any{slot: s.keys.encrypt(secret.Reveal(), gatewayPlace(g.ID, slot))})}, nil
	})
	if err != nil {
		return "", err
	}
	return key.Encode(), nil
}

// CheckKey tells which gateway an authentication key is of, and its slot. A
// wrong key is an [ErrRefused].
func (s *State) CheckKey(gatewayID string, secret certs.Secret) (g Gateway, slot string, err error) {
	found := s.current.Load().gatewayIDs[gatewayID]
	if found != nil {
		is1, is2 := found.key1.Equal(secret), found.key2.Equal(secret)
		switch {
		case is1:
			return found.Gateway, Key1, nil
		case is2:
			return found.Gateway, Key2, nil
		}
	}
	return Gateway{}, "", &Error{
		kind: ErrRefused, code: "key-refused", message: "the authentication key is not one of a gateway's two",
		advice: "was it regenerated? ebbgate gateway keys NAME shows the keys that hold",
	}
}
