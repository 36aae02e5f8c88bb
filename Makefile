.PHONY: all test again long race lint fuzz bench mutants limits soak soak-cycles soak-messages soak-resume ci quickstart

FUZZTIME ?= 60s

all: test

# Everything on embedded stand-ins; real Redis, NATS, Node and browsers are used where they are found.
test:
	go test ./...

race:
	go test -race ./...

# The default run RUNS times, without results of before; it says how long each took, and ends at the first that fails.
RUNS ?= 50
again:
	@for i in $$(seq $(RUNS)); do \
		from=$$(date +%s); go test -count 1 ./... >again.log 2>&1 || { cat again.log; echo "run $$i of $(RUNS) failed"; exit 1; }; \
		echo "run $$i of $(RUNS): green in $$(($$(date +%s) - from)) s"; \
	done; rm -f again.log

# With the tests that the default run leaves out, or takes a part of.
long:
	TETHER_TEST_LONG=1 go test -timeout 20m ./...

# staticcheck.conf says which checks. Run through the Go module proxy, so that nothing is installed.
lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt -w $$out"; exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

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

# Bugs planted into the source, one build each: the tests have to find all. About an hour on two cores.
mutants:
	go test ./internal/sim -run Mutant -mutants -count 1 -timeout 90m -v

# The tests of internal/soak in their long versions, each for SOAK; real servers are required.
SOAK ?= 10m
soak:
	TETHER_TEST_REQUIRE_REAL=1 TETHER_TEST_LONG=1 TETHER_TEST_QUIET=1 TETHER_SOAK=$(SOAK) go test ./internal/soak -count 1 -timeout 24h -v

# Limits on time as they are promised: on a machine that has nothing else to do.
limits:
	TETHER_TEST_REQUIRE_REAL=1 TETHER_TEST_LONG=1 TETHER_TEST_QUIET=1 go test -p 1 -count 1 -timeout 30m ./broker/nats ./broker/redis ./transport ./cmd/tether ./internal/soak

# Three of them, bounded by numbers instead of time; each says every ten seconds how far it is.
CYCLES ?= 1000000
MESSAGES ?= 10000000
RESUMED ?= 1000000
soak-cycles:
	TETHER_TEST_LONG=1 TETHER_SOAK_CYCLES=$(CYCLES) go test ./internal/soak -run ComingAndGoing -count 1 -timeout 6h -v
soak-messages:
	TETHER_TEST_REQUIRE_REAL=1 TETHER_TEST_LONG=1 TETHER_SOAK_MESSAGES=$(MESSAGES) go test ./internal/soak -run NothingIsLost -count 1 -timeout 6h -v
soak-resume:
	TETHER_TEST_REQUIRE_REAL=1 TETHER_TEST_LONG=1 TETHER_SOAK_MESSAGES=$(RESUMED) go test ./internal/soak -run BehindAProxyThatCuts -count 1 -timeout 6h -v

# What the continuous integration runs: installs the real parts (Debian), fails without them.
ci:
	bash .ci/run

quickstart:
	go run ./examples/quickstart
