package transport

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
)

// refusal is the answer to a request that is not served. Codes and messages are those of Engine.IO's
// reference server; a code below zero stands for an answer of ours.
type refusal struct {
	status  int
	code    int
	message string
}

var (
	errUnknownTransport = &refusal{http.StatusBadRequest, 0, "Transport unknown"}
	errUnknownSession   = &refusal{http.StatusBadRequest, 1, "Session ID unknown"}
	errMethod           = &refusal{http.StatusBadRequest, 2, "Bad handshake method"}
	errBadRequest       = &refusal{http.StatusBadRequest, 3, "Bad request"}
	errForbidden        = &refusal{http.StatusForbidden, 4, "Forbidden"}
	errProtocol         = &refusal{http.StatusBadRequest, 5, "Unsupported protocol version"}

	errFull     = &refusal{http.StatusServiceUnavailable, -1, "Too many connections"}
	errDraining = &refusal{http.StatusServiceUnavailable, -1, "Shutting down"}
	errInternal = &refusal{http.StatusInternalServerError, -1, "Internal server error"}

	errVersion   = &refusal{http.StatusUpgradeRequired, -1, "Unsupported WebSocket version"}
	errHandshake = &refusal{http.StatusBadRequest, -1, "Bad WebSocket handshake"}
)

// write answers with JSON, or as plain text when the request wanted to upgrade, after which the
// connection is of no use.
func (f *refusal) write(w http.ResponseWriter, upgrade bool) {
	h := w.Header()
	if f.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	if f.status == http.StatusUpgradeRequired {
		h.Set("Sec-WebSocket-Version", "13")
		h.Set("Upgrade", "websocket")
	}
	var body []byte
	if upgrade || f.code < 0 {
		h.Set("Content-Type", "text/html")
		body = []byte(f.message)
	} else {
		h.Set("Content-Type", "application/json")
		body = f.json()
	}
	if upgrade {
		h.Set("Connection", "close")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.status)
	w.Write(body)
}

func (f *refusal) json() []byte {
	var message bytes.Buffer
	enc := json.NewEncoder(&message)
	enc.SetEscapeHTML(false)
	enc.Encode(f.message) // of a string it cannot fail
	b := append([]byte(`{"code":`), strconv.Itoa(f.code)...)
	b = append(b, `,"message":`...)
	b = append(b, bytes.TrimSuffix(message.Bytes(), []byte("\n"))...)
	return append(b, '}')
}
