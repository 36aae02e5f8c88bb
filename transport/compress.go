package transport

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strconv"
	"strings"
	"sync"
)

// compressor is what package compress calls a writer.
type compressor interface {
	io.WriteCloser
	Reset(io.Writer)
}

// The content codings of RFC 9110 section 8.4.1 that polling responses may have, the better one first:
// deflate is the format of package zlib there.
const (
	gzipCoding    = "gzip"
	deflateCoding = "deflate"
)

var (
	gzips = sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
		return w
	}}
	zlibs = sync.Pool{New: func() any {
		w, _ := zlib.NewWriterLevel(nil, zlib.BestSpeed)
		return w
	}}
)

// compress is body in coding.
func compress(coding string, body []byte) []byte {
	pool := &gzips
	if coding == deflateCoding {
		pool = &zlibs
	}
	w := pool.Get().(compressor)
	defer pool.Put(w)
	b := bytes.NewBuffer(make([]byte, 0, len(body)/2))
	w.Reset(b)
	w.Write(body) // into memory: cannot fail
	w.Close()
	return b.Bytes()
}

// acceptedEncoding is the coding that a client prefers of those there are, RFC 9110 section 12.5.3. It is
// empty if the client takes none.
func acceptedEncoding(values []string) string {
	weights := map[string]float64{}
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			name, params, _ := strings.Cut(part, ";")
			weight := 1.0
			if q, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
				weight, _ = strconv.ParseFloat(q, 64) // 0 unless it is a number
			}
			weights[strings.ToLower(strings.TrimSpace(name))] = weight
		}
	}
	best, most := "", 0.0
	for _, name := range []string{gzipCoding, deflateCoding} {
		weight, named := weights[name]
		if !named {
			weight = weights["*"]
		}
		if weight > most {
			best, most = name, weight
		}
	}
	return best
}
