package load

import (
	"bytes"
	"strconv"
)

// status reads the answer to the upgrade. n is the length of the head, 0 when it is not complete.
func status(b []byte) (n int, why string) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > 16<<10 {
			return 0, "HTTP answer without an end"
		}
		return 0, ""
	}
	head := b[:end]
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 101")) {
		if len(line) > 60 {
			line = line[:60]
		}
		return 0, string(line)
	}
	if !bytes.Contains(head, []byte(wsAccept)) {
		return 0, "wrong Sec-WebSocket-Accept"
	}
	return end + 4, ""
}

// event splits an EVENT packet, after its "42": the ack ID (-1: none), and the text of the array.
func event(b []byte) (id int64, array []byte) {
	if len(b) > 0 && b[0] == '/' {
		i := bytes.IndexByte(b, ',')
		if i < 0 {
			return -1, nil
		}
		b = b[i+1:]
	}
	i := 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	id = -1
	if i > 0 {
		n, err := strconv.ParseInt(string(b[:i]), 10, 64)
		if err != nil {
			return -1, nil
		}
		id = n
	}
	if i == len(b) || b[i] != '[' {
		return -1, nil
	}
	return id, b[i:]
}

// firstString is the text of the event's first argument when that is a string: what follows
// ["name"," in the array.
func firstString(array []byte) []byte {
	if len(array) < 2 || array[1] != '"' {
		return nil
	}
	i := bytes.IndexByte(array[2:], '"') // a name with an escaped quote is not one of ours
	if i < 0 {
		return nil
	}
	rest := array[2+i+1:]
	if len(rest) < 2 || rest[0] != ',' || rest[1] != '"' {
		return nil
	}
	return rest[2:]
}

// called reports whether the event of array has the given name.
func called(array []byte, name string) bool {
	return len(array) > len(name)+2 && array[1] == '"' && string(array[2:2+len(name)]) == name && array[2+len(name)] == '"'
}

// ackID is the number before the array of an ACK packet in the main namespace, -1 when there is none.
func ackID(b []byte) int64 {
	head, _, ok := bytes.Cut(b, []byte("["))
	if !ok || len(head) == 0 || len(head) > 18 {
		return -1
	}
	var n int64
	for _, d := range head {
		if d < '0' || d > '9' {
			return -1
		}
		n = n*10 + int64(d-'0')
	}
	return n
}
