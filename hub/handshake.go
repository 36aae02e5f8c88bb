package hub

import (
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Handshake is what a client said when it connected.
type Handshake struct {
	Auth    json.RawMessage // payload of CONNECT, an object; nil if there was none
	Query   url.Values      // of the first request, those of Engine.IO included
	Header  http.Header     // of the first request, without those of the WebSocket handshake itself
	Address string          // of the peer of the first request, "host:port"; of a proxy, if there is one
	Time    time.Time       // of the first request
	URL     string          // of the first request, path and query
	Secure  bool            // the first request came over TLS
}

// A handshake is the fattest thing that a connection keeps, and few look at it twice: it is kept as
// one text, and taken apart when asked for.

// webSocketHeaders say nothing about the client.
var webSocketHeaders = map[string]bool{
	"Connection":               true,
	"Upgrade":                  true,
	"Sec-Websocket-Key":        true,
	"Sec-Websocket-Version":    true,
	"Sec-Websocket-Extensions": true,
}

func packHandshake(r *http.Request, now time.Time) string {
	url := r.RequestURI
	if url == "" && r.URL != nil {
		url = r.URL.RequestURI()
	}
	b := make([]byte, 0, 512)
	b = append(b, 0)
	if r.TLS != nil {
		b[0] = 1
	}
	b = binary.AppendVarint(b, now.UnixMilli())
	b = appendText(b, r.RemoteAddr)
	b = appendText(b, url)
	if r.Host != "" {
		b = appendText(appendText(b, "Host"), r.Host)
	}
	for name, values := range r.Header {
		if webSocketHeaders[name] {
			continue
		}
		for _, v := range values {
			b = appendText(appendText(b, name), v)
		}
	}
	return string(b)
}

// strippedHandshake is packed without URL and headers.
func strippedHandshake(packed string) string {
	_, _, rest := cutFlags(packed)
	_, after := cutString(rest)
	head := packed[:len(packed)-len(after)]
	return string(appendText(append(make([]byte, 0, len(head)+1), head...), ""))
}

// unpackHandshake allocates what it needs for the maps; the texts are parts of packed.
func unpackHandshake(packed string) Handshake {
	h := Handshake{Header: http.Header{}}
	var rest string
	h.Secure, h.Time, rest = cutFlags(packed)
	h.Address, rest = cutString(rest)
	h.URL, rest = cutString(rest)
	for rest != "" {
		var name, value string
		name, rest = cutString(rest)
		value, rest = cutString(rest)
		h.Header[name] = append(h.Header[name], value)
	}
	h.Query = url.Values{}
	if u, err := url.ParseRequestURI(h.URL); err == nil {
		h.Query = u.Query()
	}
	return h
}

// cutFlags cuts off what comes before the texts.
func cutFlags(packed string) (secure bool, at time.Time, rest string) {
	millis, n := binary.Varint([]byte(packed[1:min(1+binary.MaxVarintLen64, len(packed))]))
	return packed[0] == 1, time.UnixMilli(millis), packed[1+n:]
}

// cutString cuts off what appendText has appended.
func cutString(packed string) (text, rest string) {
	n, width := binary.Uvarint([]byte(packed[:min(binary.MaxVarintLen64, len(packed))]))
	return packed[width : width+int(n)], packed[width+int(n):]
}
