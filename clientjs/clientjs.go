// Package clientjs is Socket.IO's client for browsers, as npm publishes it, for pages that are to work without
// a CDN. Its licence is MIT, and is beside it.
package clientjs

import (
	"bytes"
	"embed"
	"net/http"
	"path"
	"time"
)

// Version is that of the npm package socket.io-client.
const Version = "4.8.3"

// Files are socket.io.min.js and its source map, byte for byte.
//
//go:embed socket.io.min.js socket.io.min.js.map
var Files embed.FS

// Handler serves each of [Files] at every path that ends in its name:
//
//	mux.Handle("GET /socket.io.min.js", clientjs.Handler())
//
// A browser keeps the file, and asks each time whether it is still the same.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Base(r.URL.Path)
		file, err := Files.ReadFile(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", `"`+Version+`"`)
		w.Header().Set("Cache-Control", "public, max-age=0")
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(file))
	})
}
