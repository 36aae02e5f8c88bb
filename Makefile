.PHONY: all test race fuzz bench ci quickstart

FUZZTIME ?= 60s

all: test

# Everything on embedded stand-ins; real Redis, NATS, Node and browsers are used where they are found.
test:
	go test ./...

race:
	go test -race ./...

# Every fuzz target for FUZZTIME each.
fuzz:
	@go list ./... | while read -r pkg; do \
		for target in $$(go test -list '^Fuzz' "$$pkg" | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$$pkg" || exit 1; \
		done; \
	done

# Every Go benchmark once; see bench for load tests.
bench:
	go test -run '^$$' -bench . -benchmem ./...

# What the continuous integration runs: installs the real parts (Debian), fails without them.
ci:
	bash .ci/run

quickstart:
	go run ./examples/quickstart
