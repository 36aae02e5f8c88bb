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
	context map[string]string // see ConnectionError
}

var (
	errUnknownTransport = &refusal{status: http.StatusBadRequest, code: 0, message: "Transport unknown"}
	errUnknownSession   = &refusal{status: http.StatusBadRequest, code: 1, message: "Session ID unknown"}
	errMethod           = &refusal{status: http.StatusBadRequest, code: 2, message: "Bad handshake method"}
	errBadRequest       = &refusal{status: http.StatusBadRequest, code: 3, message: "Bad request"}
	errForbidden        = &refusal{status: http.StatusForbidden, code: 4, message: "Forbidden"}
	errProtocol         = &refusal{status: http.StatusBadRequest, code: 5, message: "Unsupported protocol version"}

	errFull     = &refusal{status: http.StatusServiceUnavailable, code: -1, message: "Too many connections"}
	errDraining = &refusal{status: http.StatusServiceUnavailable, code: -1, message: "Shutting down"}
	errRelay    = &refusal{status: http.StatusBadGateway, code: -1, message: "The node of this session does not answer"}
	errInternal = &refusal{status: http.StatusInternalServerError, code: -1, message: "Internal server error"}

	errVersion   = &refusal{status: http.StatusUpgradeRequired, code: -1, message: "Unsupported WebSocket version"}
	errHandshake = &refusal{status: http.StatusBadRequest, code: -1, message: "Bad WebSocket handshake"}
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
