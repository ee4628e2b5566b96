# Targets of this repository. `make help` lists them.
#
# Needs Go, make and git. GO names another go command, ARGS adds arguments:
#   make demo ARGS='--file /tmp/some.iso'
#   make test ARGS='-run Half ./tunnel/bundle'
#   make fuzz ARGS='FuzzFrames FuzzPeek' FUZZTIME=5m
#   make bench ARGS='-only wan -rows naive,forward-tls -loss 0.01'
#   make soak SOAKTIME=2h EBBGATE_SEED=7

GO ?= go
ARGS ?=
FUZZTIME ?= 60s
SOAKTIME ?= 20m
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

# The working copy may belong to another user, which git, and so go build, minds.
BUILD := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
TOOL := $(GO) tool -modfile=tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help build demo test check bench fuzz soak

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

build: ## build bin/ebbgate
	$(BUILD) -o bin/ebbgate ./cmd/ebbgate

demo: build ## the whole path on this machine, without privileges
	bin/ebbgate demo $(ARGS)

test: ## all tests; as root on Debian with the packages that they need
	GO='$(GO)' tools/test $(ARGS)

check: ## format, vet, staticcheck, tidy modules, house rules, other systems
	GO='$(GO)' tools/check

fuzz: ## search for input that breaks a parser, FUZZTIME=60s for each target
	GO='$(GO)' FUZZTIME='$(FUZZTIME)' tools/fuzz $(ARGS)

bench: ## loopback, long lossy way (root), faults: beside direct TCP, a naive pipe, ssh
	$(GO) run -buildvcs=false ./integration/bench $(ARGS)

soak: ## processes killed and links cut at random under load, for SOAKTIME=20m
	EBBGATE_SOAK='$(SOAKTIME)' $(GO) test -v -count=1 -timeout 0 -run '^TestSoak$$' $(ARGS) ./integration/faults
