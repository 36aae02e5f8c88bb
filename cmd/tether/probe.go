package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"tether/cmd/tether/internal/config"
)

type probeCommand struct {
	URL string `arg:"" help:"http://127.0.0.1:3000/healthz to know whether the process lives; /readyz is for load balancers."`
}

func (probeCommand) Help() string {
	return "The exit code is 0 if the answer is 200, and 1 if it is not."
}

// run does not look at certificates: it is meant for the same host.
func (c *probeCommand) run(p *program, _ *config.Loaded) int {
	client := &http.Client{
		Timeout:   3 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	res, err := client.Get(c.URL)
	if err != nil {
		return p.end(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return p.end(fmt.Errorf("%s: %s", c.URL, res.Status))
	}
	return exitDone
}
