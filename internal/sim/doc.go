// Package sim runs whole clusters in fake time: several real hubs, a broker that fails on command,
// clients that speak the protocol, and somebody who emits, kicks, kills and cuts all the time. Every
// choice comes from one seed, and package ledger checks what the clients got against what they had to
// get and must not get.
//
//	go test ./internal/sim                  # 300 seeds; 1,000 with TETHER_TEST_LONG=1
//	go test ./internal/sim -seeds 100000    # more, from -first on
//	go test ./internal/sim -seed 42 -v      # one again, with a protocol of what was done
//	make mutants                            # bugs planted into the hub's source, all to be found
//
// A seed fixes what is done and when, how long everything takes, and what fails. It does not fix the
// order in which the scheduler runs goroutines that are runnable at the same instant of fake time: a
// fault that needs one order may take several runs (-count) to come back.
package sim
