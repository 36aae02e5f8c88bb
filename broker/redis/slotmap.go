package redis

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// slotMap is what one server says about the Cluster.
type slotMap struct {
	epoch int64
	ok    bool               // it is content
	owner [partitions]string // addresses of masters; "": nobody
	all   []string           // addresses of all nodes
}

// slotMap asks a server about the Cluster.
func (c *conn) slotMap() (*slotMap, error) {
	info, err := c.do("CLUSTER", "INFO")
	if err != nil {
		return nil, err
	}
	list, err := c.do("CLUSTER", "SLOTS")
	if err != nil {
		return nil, err
	}
	for _, v := range []any{info, list} {
		if refused, ok := v.(serverError); ok {
			return nil, refusedCluster(refused)
		}
	}
	text, _ := info.(string)
	ranges, _ := list.([]any)
	m := &slotMap{epoch: infoNumber(text, "cluster_current_epoch"), ok: strings.Contains(text, "cluster_state:ok")}
	for _, r := range ranges {
		if err := m.add(r, c.addr); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// add adds what CLUSTER SLOTS says of a range: first slot, last slot, master, replicas.
func (m *slotMap) add(v any, from string) error {
	r, _ := v.([]any)
	if len(r) < 3 {
		return errProtocol
	}
	first, ok1 := r[0].(int64)
	last, ok2 := r[1].(int64)
	if !ok1 || !ok2 || first < 0 || last < first || last >= slots {
		return errProtocol
	}
	for i, v := range r[2:] {
		node, _ := v.([]any)
		if len(node) < 2 {
			return errProtocol
		}
		host, _ := node[0].(string)
		port, _ := node[1].(int64)
		addr, ok := completeAddr(fmt.Sprintf("%s:%d", host, port), from)
		if !ok {
			continue // it is not known where this one is
		}
		if !slices.Contains(m.all, addr) {
			m.all = append(m.all, addr)
		}
		if i > 0 {
			continue
		}
		for p, slot := range partitionSlots() {
			if int64(slot) >= first && int64(slot) <= last {
				m.owner[p] = addr
			}
		}
	}
	return nil
}

// infoNumber returns the number of a line "name:number".
func infoNumber(info, name string) (n int64) {
	_, rest, _ := strings.Cut(info, name+":")
	for _, c := range rest {
		if c < '0' || c > '9' || n > 1<<50 {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

// asked is what one server says.
type asked struct {
	slots *slotMap
	err   error
}

// gather asks n servers at the same time.
func gather(n int, ask func(i int) (*slotMap, error)) []asked {
	all := make([]asked, n)
	var group sync.WaitGroup
	for i := range all {
		group.Go(func() { all[i].slots, all[i].err = ask(i) }) // waited for below
	}
	group.Wait()
	return all
}

// latest returns the slotMap of the highest epoch, and of those one whose server is content.
func latest(all []asked) (best *slotMap, err error) {
	err = errors.New("redis: no server of the Cluster is known")
	for _, one := range all {
		switch c := one.slots; {
		case c == nil:
			err = one.err
		case best == nil || c.epoch > best.epoch || c.epoch == best.epoch && c.ok && !best.ok:
			best = c
		}
	}
	return best, err
}

// moved parses "MOVED 3999 127.0.0.1:6381", with which a server of a Cluster says that a slot is another one's, and
// that it has done nothing. There is no ASK: sharded pub/sub stays with the old owner until the slot has a new one.
func (e serverError) moved() (part uint8, ok bool) {
	words := strings.Fields(string(e))
	if len(words) != 3 || words[0] != "MOVED" {
		return 0, false
	}
	slot, err := strconv.Atoi(words[1])
	return uint8(slot / (slots / partitions)), err == nil && slot >= 0 && slot < slots
}

// completeAddr gives an address that lacks its host, or has "?" for it, the host of from.
func completeAddr(addr, from string) (string, bool) {
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return "", false
	}
	host, port := strings.Trim(addr[:i], "[]"), addr[i+1:]
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", false
	}
	if host == "" || host == "?" {
		var err error
		if host, _, err = net.SplitHostPort(from); err != nil {
			return "", false
		}
	}
	return net.JoinHostPort(host, port), true
}
