package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// advised adds to an error of connecting what there is to do about it. secure says that TLS is spoken. No
// text of a server is quoted that could hold a secret.
func advised(err error, secure bool) error {
	if err == nil {
		return nil
	}
	if advice := adviceOn(err, secure); advice != "" {
		return fmt.Errorf("%w: %s", err, advice)
	}
	return err
}

func adviceOn(err error, secure bool) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
	)
	switch text := err.Error(); {
	case errors.As(err, &unknown):
		return "the server's certificate is from an authority that is not trusted here; name the file with that authority's certificate in the URL, as ca=FILE"
	case errors.As(err, &name):
		return "the server's certificate is for other names than the one in the URL, or the one that the servers announce to each other"
	case errors.As(err, &invalid):
		return "the server's certificate, or the clock here, must be set right"
	case errors.As(err, &record):
		return "the server does not speak TLS at this port; the scheme for that is redis, not rediss"
	case strings.Contains(text, "certificate required"), strings.Contains(text, "bad certificate"), strings.Contains(text, "unknown certificate authority"):
		return "the server wants a certificate of ours that it trusts; name its file and that of its key in the URL, as cert=FILE&key=FILE"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		if secure {
			return "the server hung up at the first command; if it wants a certificate of ours, name its file and that of its key in the URL, as cert=FILE&key=FILE"
		}
		return "the server hung up at the first command; if it wants TLS, the scheme is rediss"
	case strings.Contains(text, `beginning with "INFO "`):
		return "this is a NATS server; the scheme for that is nats"
	case errors.Is(err, errProtocol):
		return "what answers at this port does not speak the protocol of Redis"
	case secure && errors.Is(err, context.DeadlineExceeded):
		return "there was no answer in time; perhaps the server does not speak TLS at this port, and the scheme is redis"
	}
	return ""
}

// refusedAuth is the error for an answer to AUTH, or to the first command without one. whose is "the server",
// or "the Sentinel". The text of a server error may quote the arguments, so it is left out.
func refusedAuth(why serverError, whose, missing string) error {
	advice := ""
	switch code := why.code(); {
	case code == "WRONGPASS":
		advice = "; check those in the URL, where other characters than letters and digits must be percent-encoded"
	case code == "NOAUTH":
		return fmt.Errorf("authenticate: redis: NOAUTH: %s wants a password; %s", whose, missing)
	case strings.Contains(string(why), "without any password configured"):
		advice = "; it has no password, so the URL must not have one"
	}
	return fmt.Errorf("authenticate: redis: %s: %s refuses the user and password%s", why.code(), whose, advice)
}

const (
	missingPassword = "put user and password before the host in the URL, as user:password@"
	missingSentinel = "sentinel_auth=true in the URL gives it the same user and password as the master"
)

// refusedCluster is the error for an answer to CLUSTER INFO, or CLUSTER SLOTS.
func refusedCluster(why serverError) error {
	advice := ""
	switch {
	case strings.Contains(string(why), "cluster support disabled"):
		advice = ": it is a server of its own; the scheme for that is redis, or rediss"
	case why.code() == "NOPERM":
		advice = ": the user needs +cluster|info and +cluster|slots"
	}
	return fmt.Errorf("ask about the Cluster: %w%s", why, advice)
}
