package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/server"
)

type serveCommand struct{}

func (serveCommand) Help() string {
	return `Socket.IO clients connect to /socket.io/. Any language emits to them through POST /emit.

Every setting is a flag, an environment variable and a key of the YAML file: --http.idle-timeout=2m is TETHER_HTTP_IDLE_TIMEOUT, and idle-timeout in the section http. Flags win over the environment, and the environment over the file. Lists are separated by commas. An empty variable counts as not set. One dash is as good as two.

SIGTERM or Ctrl-C drains: the clients are sent to other nodes first. A second one ends the program at once. SIGHUP loads the configuration again.`
}

func (serveCommand) run(p *program, l *config.Loaded) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	logs := server.NewLogs(p.stderr, l.Log.Format)
	log := logs.Of("server")
	slog.SetDefault(logs.Of("broker")) // brokers are opened without a logger
	err := server.New(p.loader, l, logs).Run(context.Background(), signals)
	switch {
	case errors.Is(err, server.ErrCutShort):
		log.Warn(err.Error())
		return exitCutShort
	case err != nil:
		log.Error("the server has failed", "error", err)
		return exitFailed
	}
	return exitDone
}
