package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each wrong file and what is said of it.
func TestBadRelay(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "hostname: a\nlisten:\n  tsl: \":443\"\n", `relay.yaml:3: listen.tsl: unknown key; did you mean "tls"?`},
		{"unknown key far from all", "hostname: a\nqueue_timeout: 60s\n", `relay.yaml:2: queue_timeout: unknown key; known here: hostname, listen, ingress, state, activity, tls, metrics, log, resume_grace`},
		{"capital", "Hostname: a\n", `relay.yaml:1: Hostname: unknown key; did you mean "hostname"?`},
		{"dash", "hostname: a\nstate: {key-file: x}\n", `relay.yaml:2: state.key-file: unknown key; did you mean "key_file"?`},
		{"several at once", "hostnam: a\nmetric: x\n", "relay.yaml:1: hostnam: unknown key; did you mean \"hostname\"?\nrelay.yaml:2: metric: unknown key; did you mean \"metrics\"?"},
		{"twice", "hostname: a\nmetrics: ':1'\nhostname: b\n", `relay.yaml:3: hostname: is here a second time, the first is in line 1`},
		{"empty", "", `relay.yaml: is empty; docs/reference shows every key`},
		{"comments only", "# nothing\n\n---\n# here\n", `relay.yaml: is empty; docs/reference shows every key`},
		{"null", "~\n", `relay.yaml: is empty; docs/reference shows every key`},
		{"two documents", "hostname: a\n---\nhostname: b\n", `relay.yaml:2: a second document begins (---), but only one is read`},
		{"tab", "listen:\n\ttls: ':443'\n", `relay.yaml:2: is indented with a tab, but YAML wants spaces`},
		{"no YAML", "hostname: a: b\n", `relay.yaml:1: is no valid YAML here or just below: mapping values are not allowed in this context`},
		{"not closed", "hostname: a\nlisten: {tls: ':443'\n", `relay.yaml:1: is no valid YAML here or just below: did not find expected ',' or '}'`},
		{"binary", "\x00\x01\x02", `relay.yaml:1: holds bytes that are no text`},
		{"not UTF-8", "hostname: a\nmetrics: \xff\xfe\n", `relay.yaml:2: holds bytes that are no text`},
		{"list at top", "- hostname: a\n", `relay.yaml:1: is a list, but a mapping of key: value is wanted`},
		{"text at top", "hostname\n", `relay.yaml:1: is text, but a mapping of key: value is wanted`},
		{"anchor", "hostname: &a a\nmetrics: *a\n", "relay.yaml:1: hostname: uses an anchor or alias (& or *): write the value itself, in quotes if it begins with * or & (example: \"*.corp.example\")\nrelay.yaml:2: metrics: uses an anchor or alias (& or *): write the value itself, in quotes if it begins with * or & (example: \"*.corp.example\")"},
		{"anchor at top", "&a\nhostname: a\n", `relay.yaml:1: uses an anchor or alias (& or *): write the value itself, in quotes if it begins with * or & (example: "*.corp.example")`},
		{"merge key", "hostname: a\nlisten: {<<: {tls: ':1'}}\n", `relay.yaml:2: listen.<<: unknown key; known here: tls, quic, http`},
		{"tag", "hostname: !!binary aGk=\n", `relay.yaml:1: hostname: uses a tag (!!binary): write the value itself`},
		{"number for text", "hostname: 127\n", `relay.yaml:1: hostname: is a number, but text is wanted: put it in quotes (example: "127")`},
		{"port for address", "hostname: a\nlisten: {tls: 443}\n", `relay.yaml:2: listen.tls: is a number, but text is wanted: put it in quotes (example: "443")`},
		{"boolean for text", "hostname: a\nmetrics: true\n", `relay.yaml:2: metrics: is true or false, but text is wanted: put it in quotes (example: "true")`},
		{"list for text", "hostname: [a]\n", `relay.yaml:1: hostname: is a list, but one value is wanted`},
		{"mapping for text", "hostname: {a: b}\n", `relay.yaml:1: hostname: is a mapping, but one value is wanted`},
		{"text for mapping", "hostname: a\nlisten: ':443'\n", `relay.yaml:2: listen: is text, but a mapping of key: value is wanted`},
		{"line break", "hostname: \"a\\nb\"\n", `relay.yaml:1: hostname: holds a line break or another control character`},
		{"key no name", "hostname: a\n[x]: b\n", `relay.yaml:2: ?: the key is a list, but a name is wanted`},
		{"no hostname", "metrics: ':1'\n", `relay.yaml: hostname: is missing (example: hostname: relay.example.com)`},
		{"hostname with port", "hostname: relay.example.com:443\n", `relay.yaml:1: hostname: "relay.example.com:443" is no host name or IP address, without port or scheme (example: hostname: relay.example.com)`},
		{"hostname with scheme", "hostname: https://relay.example.com\n", `relay.yaml:1: hostname: "https://relay.example.com" is no host name or IP address, without port or scheme (example: hostname: relay.example.com)`},
		{"address without port", "hostname: a\nlisten: {tls: 127.0.0.1}\n", `relay.yaml:2: listen.tls: "127.0.0.1" is not host:port (example: "127.0.0.1:443", or ":443" for all addresses)`},
		{"port too high", "hostname: a\nlisten: {quic: ':65536'}\n", `relay.yaml:2: listen.quic: ":65536" is not host:port (example: "127.0.0.1:443", or ":443" for all addresses)`},
		{"port by name", "hostname: a\nmetrics: ':https'\n", `relay.yaml:2: metrics: ":https" is not host:port (example: "127.0.0.1:443", or ":443" for all addresses)`},
		{"ingress open to the network", "hostname: a\ningress: {connect: ':3128'}\n", `relay.yaml:2: ingress.connect: is not on loopback, so job tokens would cross the network unencrypted: it needs tls: true, or insecure: true with allow_from (example: {listen: ":3128", tls: true})`},
		{"SOCKS open to the network", "hostname: a\ningress: {socks5: '0.0.0.0:1080'}\n", `relay.yaml:2: ingress.socks5: is not on loopback, so job tokens would cross the network unencrypted: it needs tls: true, or insecure: true with allow_from (example: {listen: "0.0.0.0:1080", tls: true})`},
		{"client certificates without TLS", "hostname: a\ningress:\n  connect:\n    listen: '127.0.0.1:1'\n    client_ca: x\n", `relay.yaml:5: ingress.connect.client_ca: needs tls: true beside it (example: tls: true)`},
		{"insecure for all", "hostname: a\ningress: {socks5: {listen: ':1', insecure: true}}\n", `relay.yaml:2: ingress.socks5.insecure: needs allow_from beside it, the networks that get in (example: allow_from: [10.0.0.0/8])`},
		{"nobody", "hostname: a\ningress: {socks5: {listen: '127.0.0.1:1', allow_from: []}}\n", `relay.yaml:2: ingress.socks5.allow_from: is an empty list, so nobody would get in (example: allow_from: [10.0.0.0/8])`},
		{"network with host bits", "hostname: a\ningress: {socks5: {listen: '127.0.0.1:1', allow_from: [10.0.0.1/8]}}\n", `relay.yaml:2: ingress.socks5.allow_from[0]: "10.0.0.1/8" is no network or address (example: allow_from: [10.0.0.0/8])`},
		{"ingress without address", "hostname: a\ningress: {connect: {tls: true}}\n", `relay.yaml:2: ingress.connect.listen: is missing (example: {listen: "0.0.0.0:3128", tls: true})`},
		{"https as text", "hostname: a\ningress: {https: 'yes'}\n", `relay.yaml:2: ingress.https: is text, but true or false is wanted (example: true)`},
		{"port with TLS for all", "hostname: a\ningress: {ports: [{listen: ':1', tls: true, target: corp/a, job: b}]}\n", `relay.yaml:2: ingress.ports[0].listen: is not on loopback, so whoever reaches it would reach the store: it needs tls: true with client_ca, or insecure: true with allow_from (example: {listen: ":1", tls: true, client_ca: /etc/ebbgate/jobs-ca.pem, ...})`},
		{"port open to the network", "hostname: a\ningress:\n  ports:\n  - listen: '192.0.2.1:1433'\n    target: corp/erp-sql\n    job: nightly\n", `relay.yaml:4: ingress.ports[0].listen: is not on loopback, so whoever reaches it would reach the store: it needs tls: true with client_ca, or insecure: true with allow_from (example: {listen: "192.0.2.1:1433", tls: true, client_ca: /etc/ebbgate/jobs-ca.pem, ...})`},
		{"port without all", "hostname: a\ningress:\n  ports:\n  - {}\n", "relay.yaml:4: ingress.ports[0].listen: is missing (example: {listen: \"127.0.0.1:11433\", target: corp/erp-sql, job: nightly-copy})\nrelay.yaml:4: ingress.ports[0].target: is missing (example: {listen: \"127.0.0.1:11433\", target: corp/erp-sql, job: nightly-copy})\nrelay.yaml:4: ingress.ports[0].job: is missing (example: {listen: \"127.0.0.1:11433\", target: corp/erp-sql, job: nightly-copy})"},
		{"port's target", "hostname: a\ningress: {ports: [{listen: '127.0.0.1:1', target: erp-sql.corp, job: nightly}]}\n", `relay.yaml:2: ingress.ports[0].target: "erp-sql.corp" is not GATEWAY/STORE (example: target: corp/erp-sql)`},
		{"port's target deeper", "hostname: a\ningress: {ports: [{listen: '127.0.0.1:1', target: corp/erp/sql, job: nightly}]}\n", `relay.yaml:2: ingress.ports[0].target: "erp/sql" is no name, which is 1 to 63 of a-z, 0-9 and - (example: target: corp/erp-sql)`},
		{"port's job", "hostname: a\ningress: {ports: [{listen: '127.0.0.1:1', target: corp/erp-sql, job: Nightly}]}\n", `relay.yaml:2: ingress.ports[0].job: "Nightly" is no name, which is 1 to 63 of a-z, 0-9 and - (example: job: nightly-copy)`},
		{"certificate without key", "hostname: a\ntls:\n  cert: x\n", `relay.yaml:3: tls.cert: needs tls.key beside it (example: tls: {cert: /etc/ebbgate/tls.crt, key: /etc/ebbgate/tls.key})`},
		{"key without certificate", "hostname: a\ntls:\n  key: x\n", `relay.yaml:3: tls.key: needs tls.cert beside it (example: tls: {cert: /etc/ebbgate/tls.crt, key: /etc/ebbgate/tls.key})`},
		{"huge", "hostname: a\n#" + strings.Repeat("x", fileLimit), `relay.yaml: is larger than 1024 KiB, so it is no configuration of ours`},
		{"key of 100 letters", strings.Repeat("k", 100) + ": a\n", `relay.yaml:1: "` + strings.Repeat("k", 80) + `"...: unknown key; known here: hostname, listen, ingress, state, activity, tls, metrics, log, resume_grace`},
		{"key with colours", "\"\\e[31mhostname\": a\n", `relay.yaml:1: "\x1b[31mhostname": unknown key; known here: hostname, listen, ingress, state, activity, tls, metrics, log, resume_grace`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, "relay.yaml", tt.text)
			_, err := LoadRelay(Options{File: path, Environment: nothing})
			if d := cmp.Diff(tt.want, problems(t, path, err)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestBadConnector(t *testing.T) {
	const exampleRelay = ` (example: relay: relay.example.com, or relay: {host: relay.example.com, tls: 8443, quic: 8443, http: 8080}, or a list of these)`
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key in a store", "stores:\n- name: a\n  adress: b:1\n", `connector.yaml:3: stores[0].adress: unknown key; did you mean "address"?`},
		{"unknown key of the relay", "relay: {host: a, port: 1}\n", `connector.yaml:1: relay.port: unknown key; known here: host, tls, quic, http`},
		{"short form's key", "relay: {address: a}\n", `connector.yaml:1: relay.address: unknown key; known here: host, tls, quic, http`},
		{"relay with scheme", "relay: https://a\n", `connector.yaml:1: relay: "https://a" is not host or host:port` + exampleRelay},
		{"relay port 0", "relay: a:0\n", `connector.yaml:1: relay: "a:0" is not host or host:port` + exampleRelay},
		{"relay twice", "relay: [a, 'b:1', a]\n", `connector.yaml:1: relay[2]: is the same as relay[0]`},
		{"relay in a list", "relay:\n- a\n- {host: b, tls: 65536}\n", `connector.yaml:3: relay[1].tls: 65536 is no port, which is 1 to 65535 (example: 443)`},
		{"relays nested", "relay: [[a]]\n", `connector.yaml:1: relay[0]: is a list, but a mapping of key: value is wanted`},
		{"relay without host", "relay:\n  tls: 1\n", `connector.yaml:1: relay.host: is missing` + exampleRelay},
		{"relay port too high", "relay:\n  host: a\n  tls: 65536\n", `connector.yaml:3: relay.tls: 65536 is no port, which is 1 to 65535 (example: 443)`},
		{"relay port as text", "relay: {host: a, tls: \"443\"}\n", `connector.yaml:1: relay.tls: is text, but a whole number is wanted (example: 443)`},
		{"relay port broken", "relay: {host: a, tls: 4.5}\n", `connector.yaml:1: relay.tls: is a number, but a whole number is wanted (example: 443)`},
		{"metrics not on loopback", "metrics: ':9465'\n", `connector.yaml:1: metrics: ":9465" is not on loopback: a connector opens no port to its network (example: metrics: "127.0.0.1:9465")`},
		{"too many lanes", "lanes: {max: 65}\n", `connector.yaml:1: lanes.max: 65 is no number from 0 to 64`},
		{"lanes in words", "lanes: {total: many}\n", `connector.yaml:1: lanes.total: is text, but a whole number is wanted (example: 443)`},
		{"grace too long", "resume_grace: 2h\n", `connector.yaml:1: resume_grace: "2h" is no time from 0 to 1h0m0s (example: resume_grace: 2m0s)`},
		{"carrier unknown", "carriers: [quick]\n", `connector.yaml:1: carriers[0]: "quick" is none of quic, tls, wss, ws; did you mean "quic"?`},
		{"carrier twice", "carriers: [tls, tls]\n", `connector.yaml:1: carriers[1]: "tls" is listed twice`},
		{"auto among others", "carriers: [auto, tls]\n", `connector.yaml:1: carriers[0]: "auto" is none of quic, tls, wss, ws`},
		{"proxy mode", "proxy: {mode: Custom}\n", `connector.yaml:1: proxy.mode: "Custom" is none of none, system, custom; did you mean "custom"?`},
		{"custom without url", "proxy: {mode: custom}\n", `connector.yaml:1: proxy.mode: custom needs proxy.url (example: url: http://proxy.corp.example:8080)`},
		{"url without custom", "proxy: {url: 'http://a:1'}\n", `connector.yaml:1: proxy.url: is used with proxy.mode custom only (example: mode: custom)`},
		{"url without scheme", "proxy: {mode: custom, url: 'proxy:8080'}\n", `connector.yaml:1: proxy.url: "proxy:8080" is not http://host:port (example: url: http://proxy.corp.example:8080)`},
		{"url without port", "proxy: {mode: custom, url: 'http://proxy'}\n", `connector.yaml:1: proxy.url: "http://proxy" does not name the proxy's port (example: url: http://proxy.corp.example:8080)`},
		{"url with path", "proxy: {mode: custom, url: 'http://proxy:1/x'}\n", `connector.yaml:1: proxy.url: "http://proxy:1/x" goes on after the port (example: url: http://proxy.corp.example:8080)`},
		{"url of another kind", "proxy: {mode: custom, url: 'socks5://proxy:1080'}\n", `connector.yaml:1: proxy.url: begins with "socks5", but only http:// is possible (example: url: http://proxy.corp.example:8080)`},
		{"url with a user", "proxy: {mode: custom, url: 'http://u:p@proxy:1'}\n", `connector.yaml:1: proxy.url: holds a user; that belongs to proxy.username and proxy.password_file (example: url: http://proxy.corp.example:8080)`},
		{"user without password", "proxy: {username: a}\n", `connector.yaml:1: proxy.username: needs proxy.password_file beside it (example: password_file: /etc/ebbgate/proxy-password)`},
		{"password without user", "proxy: {password_file: a}\n", `connector.yaml:1: proxy.password_file: needs proxy.username beside it (example: username: CORP\svc-ebbgate)`},
		{"password in the file", "proxy: {password: a}\n", `connector.yaml:1: proxy.password: unknown key; known here: mode, url, username, password_file, auth, bypass`},
		{"no scheme", "proxy: {auth: []}\n", `connector.yaml:1: proxy.auth: is an empty list (example: auth: [ntlm, basic])`},
		{"scheme not there yet", "proxy: {auth: [negotiate]}\n", `connector.yaml:1: proxy.auth[0]: "negotiate" is none of ntlm, basic`},
		{"scheme not a list", "proxy: {auth: ntlm}\n", `connector.yaml:1: proxy.auth: is text, but a list is wanted (example: [ntlm])`},
		{"star without quotes", "proxy: {bypass: [*.corp.example]}\n", `connector.yaml:1: is no valid YAML here or just below: did not find expected alphabetic or numeric character`},
		{"bypass as a URL", "proxy:\n  bypass:\n  - a\n  - http://b\n", `connector.yaml:4: proxy.bypass[1]: "http://b" is no host, *.domain, address or network (example: bypass: ["*.corp.example", 10.0.0.0/8])`},
		{"stores a mapping", "stores: {name: a}\n", `connector.yaml:1: stores: is a mapping, but a list is wanted`},
		{"store empty", "stores:\n-\n- name: a\n  address: a:1\n", `connector.yaml:2: stores[0]: is empty`},
		{"store without all", "stores: [{}]\n", "connector.yaml:1: stores[0].name: is missing (example: {name: erp-sql, address: sql01.corp.example:1433})\nconnector.yaml:1: stores[0].address: is missing (example: {name: erp-sql, address: sql01.corp.example:1433})"},
		{"store's name", "stores: [{name: ERP_SQL, address: a:1}]\n", `connector.yaml:1: stores[0].name: "ERP_SQL" is no name, which is 1 to 63 of a-z, 0-9 and - (example: name: erp-sql)`},
		{"store's name too long", "stores: [{name: " + strings.Repeat("a", 64) + ", address: a:1}]\n", `connector.yaml:1: stores[0].name: "` + strings.Repeat("a", 64) + `" is no name, which is 1 to 63 of a-z, 0-9 and - (example: name: erp-sql)`},
		{"store's name a number", "stores: [{name: 2024, address: a:1}]\n", `connector.yaml:1: stores[0].name: is a number, but text is wanted: put it in quotes (example: "2024")`},
		{"two stores of a name", "stores:\n- {name: a, address: a:1}\n- {name: b, address: a:1}\n- {name: a, address: b:1}\n", `connector.yaml:4: stores[2].name: "a" is also the name of stores[0]`},
		{"store without port", "stores: [{name: a, address: sql01}]\n", `connector.yaml:1: stores[0].address: "sql01" is not host:port (example: address: sql01.corp.example:1433)`},
		{"store port 0", "stores: [{name: a, address: sql01:0}]\n", `connector.yaml:1: stores[0].address: "sql01:0" is not host:port (example: address: sql01.corp.example:1433)`},
		{"store as URL", "stores: [{name: a, address: 'http://sql01:80'}]\n", `connector.yaml:1: stores[0].address: "http://sql01:80" is not host:port (example: address: sql01.corp.example:1433)`},
		{"store IPv6 without brackets", "stores: [{name: a, address: '2001:db8::1:80'}]\n", `connector.yaml:1: stores[0].address: "2001:db8::1:80" is not host:port (example: address: sql01.corp.example:1433)`},
		{"alias without port", "stores: [{name: a, address: a:1, aliases: [sql01]}]\n", `connector.yaml:1: stores[0].aliases[0]: "sql01" is not host:port, the host in ASCII (example: aliases: [sql01.corp.local:1433])`},
		{"alias not ASCII", "stores: [{name: a, address: a:1, aliases: ['straße:1']}]\n", `connector.yaml:1: stores[0].aliases[0]: "stra\u00dfe:1" is not host:port, the host in ASCII (example: aliases: [sql01.corp.local:1433])`},
		{"alias twice", "stores: [{name: a, address: a:1, aliases: ['SQL01.:1', 'sql01:1']}]\n", `connector.yaml:1: stores[0].aliases[1]: "sql01:1" is listed twice`},
		{"special unknown", "stores: [{name: a, address: a:1, allow_special: [localhost]}]\n", `connector.yaml:1: stores[0].allow_special[0]: "localhost" is none of loopback, link-local, metadata, relay, proxy`},
		{"job's name", "stores: [{name: a, address: a:1, jobs: ['*']}]\n", `connector.yaml:1: stores[0].jobs[0]: "*" is no name, which is 1 to 63 of a-z, 0-9 and - (example: jobs: [nightly-copy])`},
		{"ingress unknown", "stores: [{name: a, address: a:1, ingress: [clients]}]\n", `connector.yaml:1: stores[0].ingress[0]: "clients" is none of relay, client; did you mean "client"?`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, "connector.yaml", tt.text)
			_, err := LoadConnector(Options{File: path, Environment: nothing})
			if d := cmp.Diff(tt.want, problems(t, path, err)); d != "" {
				t.Error(d)
			}
		})
	}
}
