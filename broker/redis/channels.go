package redis

import (
	"bytes"
	"strconv"
	"sync"
)

// partitions is the number of hash tags into which the subjects of a Cluster are folded. All nodes must
// agree on it, so it never changes.
const partitions = 256

// channels is how subjects are named to a server, and with which commands.
type channels struct {
	sharded bool     // immutable; sharded pub/sub
	prefix  string   // immutable; of every channel
	heads   []string // immutable; what comes before the subject, by partition

	subscribe, unsubscribe, publish string // immutable; beginnings of the commands, as sent
	onMessage, onSub, onUnsub       string // immutable; first word of what the server sends

	log *keeping // immutable; nil: there is none
}

func newChannels(prefix string) *channels {
	return &channels{
		prefix: prefix, heads: []string{prefix},
		subscribe: "*2\r\n$9\r\nSUBSCRIBE\r\n", unsubscribe: "*2\r\n$11\r\nUNSUBSCRIBE\r\n", publish: "*3\r\n$7\r\nPUBLISH\r\n",
		onMessage: "message", onSub: "subscribe", onUnsub: "unsubscribe",
	}
}

func newShardedChannels(prefix string) *channels {
	w := &channels{
		sharded: true, prefix: prefix, heads: make([]string, partitions),
		subscribe: "*2\r\n$10\r\nSSUBSCRIBE\r\n", unsubscribe: "*2\r\n$12\r\nSUNSUBSCRIBE\r\n", publish: "*3\r\n$8\r\nSPUBLISH\r\n",
		onMessage: "smessage", onSub: "ssubscribe", onUnsub: "sunsubscribe",
	}
	for p, tag := range partitionTags() {
		w.heads[p] = "{" + tag + "}" + prefix
	}
	return w
}

// partition returns the partition of a subject, which is the same in every process: FNV-1a, folded.
func (w *channels) partition(subject string) uint8 {
	if !w.sharded || w.log != nil {
		return 0
	}
	h := uint32(2166136261)
	for i := range len(subject) {
		h = (h ^ uint32(subject[i])) * 16777619
	}
	return uint8(h>>24) ^ uint8(h>>16) ^ uint8(h>>8) ^ uint8(h)
}

// appendChannel appends the channel of a subject as a bulk string.
func (w *channels) appendChannel(dst []byte, part uint8, subject string) []byte {
	head := w.heads[part]
	dst = appendHeader(dst, '$', len(head)+len(subject))
	dst = append(dst, head...)
	dst = append(dst, subject...)
	return append(dst, '\r', '\n')
}

// subject returns the subject of a channel, a part of it, and false if the channel is not one of ours.
func (w *channels) subject(channel []byte) ([]byte, bool) {
	if w.sharded {
		_, rest, ok := bytes.Cut(channel, []byte("}"))
		if !ok {
			return nil, false
		}
		channel = rest
	}
	if len(channel) < len(w.prefix) || string(channel[:len(w.prefix)]) != w.prefix {
		return nil, false
	}
	return channel[len(w.prefix):], true
}

// slots is the number of hash slots of every Cluster.
const slots = 16384

// partitionTags returns the hash tag of each partition. The slots are cut into as many stretches of
// equal length as there are partitions; the tag of the n-th is the smallest number whose slot lies in
// the n-th. So a server with a part of the slots has the same part of the partitions.
var partitionTags = sync.OnceValue(func() [partitions]string {
	var tags [partitions]string
	for n, missing := 0, partitions; missing > 0; n++ {
		tag := strconv.Itoa(n)
		if p := slotOf(tag) / (slots / partitions); tags[p] == "" {
			tags[p] = tag
			missing--
		}
	}
	return tags
})

// partitionSlots returns the slot of each partition.
var partitionSlots = sync.OnceValue(func() [partitions]int {
	var at [partitions]int
	for p, tag := range partitionTags() {
		at[p] = slotOf(tag)
	}
	return at
})

// slotOf returns the slot of a key that is its own hash tag: CRC16 of XMODEM, modulo the slots.
func slotOf(tag string) int {
	crc := uint16(0)
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slots
}
