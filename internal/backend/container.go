package backend

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// engineAnswers reports whether a container engine answers a ping within a second, so that a machine
// without one does not pay for the container library's own, slower search.
func engineAnswers() bool {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	u, err := url.Parse(host)
	if err != nil {
		return false
	}
	network, addr := u.Scheme, u.Host
	if network == "unix" {
		addr = u.Path
	}
	if network != "unix" && network != "tcp" {
		return false
	}
	client := http.Client{
		Timeout: time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr)
			},
		},
	}
	resp, err := client.Get("http://engine/_ping")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func container(t testing.TB, p product, args []string) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // it may have to fetch the image
	defer cancel()
	c, err := testcontainers.Run(ctx, p.image,
		testcontainers.WithExposedPorts(p.port),
		testcontainers.WithCmd(append(p.inside, args...)...),
		testcontainers.WithWaitStrategy(wait.ForListeningPort(p.port)),
	)
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatalf("backend: run %s: %v", p.image, err)
	}
	addr, err := c.PortEndpoint(ctx, p.port, "")
	if err != nil {
		t.Fatalf("backend: address of %s: %v", p.image, err)
	}
	t.Logf("backend: container %s at %s", p.image, addr)
	return &Server{URL: p.scheme + "://" + addr, Addr: addr, Kind: Container, t: t, name: p.name}
}
