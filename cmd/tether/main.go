// Server is the Tether event hub as a program: Socket.IO clients connect to /socket.io/, and any
// language emits to them through POST /emit. README.md says how to start it, and
// docs/configuration.md what can be set.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tether/token"
)

// The exit codes, as -h documents them.
const (
	exitDone     = 0
	exitFailed   = 1
	exitMistake  = 2
	exitCutShort = 3
)

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr, signals))
}

// run does what the command line says and returns the exit code.
func run(args, environ []string, stdout, stderr io.Writer, signals <-chan os.Signal) int {
	if wantsHelp(args) {
		return done(stderr, printHelp(stdout))
	}
	from := loader{args: args, environ: environ}
	l, err := from.load()
	if l != nil && l.NewKey {
		_, err := fmt.Fprintln(stdout, token.GenerateKey())
		return done(stderr, err)
	}
	if l != nil && l.Probe != "" {
		return done(stderr, probe(l.Probe))
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitMistake
	}
	switch {
	case l.PrintConfig:
		return done(stderr, l.printConfig(stdout))
	case l.CheckConfig:
		_, err := fmt.Fprintln(stdout, "the configuration is good")
		return done(stderr, err)
	case l.NewToken != "":
		return done(stderr, printToken(stdout, l))
	}
	level := &slog.LevelVar{}
	s := &server{loader: from, loaded: l, level: level, log: newLogger(stderr, l.Log.Format, level)}
	slog.SetDefault(s.log) // for the brokers, which are opened without a logger
	return s.run(context.Background(), signals)
}

// done reports an error of what is no server.
func done(stderr io.Writer, err error) int {
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return exitDone
}

// probe asks once. It does not look at certificates: it is meant for the same host.
func probe(url string) error {
	client := &http.Client{
		Timeout:   3 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}

func printToken(w io.Writer, l *loaded) error {
	keys, err := expand(l.Auth.Keys)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return &mistake{Key: "auth.keys", Problem: "is missing: a token is sealed with it"}
	}
	ring, err := keyring(keys)
	if err != nil {
		return err
	}
	sealed, err := ring.SealUser(l.NewToken, time.Hour)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, sealed)
	return err
}

func newLogger(w io.Writer, format string, level *slog.LevelVar) *slog.Logger {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // JSON would have nanoseconds, and no unit
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
