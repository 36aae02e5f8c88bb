package redis

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tether/broker"
)

// With a log one server orders all messages: in a Cluster the one that has partition 0. A message that asks for a place
// is published by a script, which gives it the place, adds it to the stream of its log, and publishes it behind its
// place, at once. So the order of the places is that in which each subscribed connection gets the messages.
//
// The places of a server that was restarted or replaced begin anew above all former ones, and what is asked for from
// before that is refused: nobody knows what it has lost. That is noticed by its run id, before a connection is used.

// keeping is how a log is kept. It is immutable.
type keeping struct {
	broker.LogOptions
	head     string // of all keys
	counter  string // key of what is known of places: the last one (n), the run id, and the first of the run (base)
	commands string // what publishes
}

func newKeeping(o broker.LogOptions, w *channels) *keeping {
	k := &keeping{LogOptions: o.WithDefaults(), head: w.heads[0] + "tether:", commands: "PUBLISH"}
	if w.sharded {
		k.commands = "SPUBLISH"
	}
	k.counter = k.head + "log"
	return k
}

// script is Lua with its name.
type script struct{ text, name string }

func newScript(text string) script {
	sum := sha1.Sum([]byte(text))
	return script{text, hex.EncodeToString(sum[:])}
}

// placeScript publishes a message with a place: KEYS counter, and of a log its stream and what is known of that; ARGV
// command, channel, age in ms, length, bytes, subject, data.
var placeScript = newScript(`
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local last = redis.call('HGET', KEYS[1], 'n')
local n = now
if not last then
  redis.call('HSET', KEYS[1], 'base', string.format('%.0f', n - 1))
elseif now <= tonumber(last) then
  n = last + 1
end
local id = string.format('%.0f', n)
redis.call('HSET', KEYS[1], 'n', id)
if KEYS[2] then
  redis.call('XADD', KEYS[2], id .. '-0', 's', ARGV[6], 'd', ARGV[7])
  local size = redis.call('HINCRBY', KEYS[3], 'b', #ARGV[7])
  local length = redis.call('XLEN', KEYS[2])
  local full = size > tonumber(ARGV[5]) or length > tonumber(ARGV[4])
  while full or n % 16 == 0 do
    local e = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    if not e then break end
    local at = string.sub(e[1], 1, -3)
    if not full and tonumber(at) >= n - ARGV[3] * 1000 then break end
    redis.call('XDEL', KEYS[2], e[1])
    size = redis.call('HINCRBY', KEYS[3], 'b', -#e[2][4])
    length = length - 1
    redis.call('HSET', KEYS[3], 'd', at)
    full = size > tonumber(ARGV[5]) or length > tonumber(ARGV[4])
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
end
return redis.call(ARGV[1], ARGV[2], id .. ':' .. ARGV[7])
`)

// headScript has all places from here on be behind what it returns, also if the clock is set back: KEYS counter.
const headScript = `
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2] - 1
local last = redis.call('HGET', KEYS[1], 'n')
if last and tonumber(last) >= now then return last end
now = string.format('%.0f', now)
redis.call('HSET', KEYS[1], 'n', now)
if not last then redis.call('HSET', KEYS[1], 'base', now) end
return now
`

// runScript begins the places anew if the server is another one: KEYS counter, ARGV run id.
const runScript = `
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[1] then
  local n = redis.call('TIME')
  n = n[1] * 1000000 + n[2]
  local last = redis.call('HGET', KEYS[1], 'n')
  if last and tonumber(last) >= n then n = last + 1 end
  n = string.format('%.0f', n)
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'n', n, 'base', n)
end
return 1
`

// saveScript implements broker.Log.Save: KEYS record, ARGV was, owner, version, value, age in ms.
const saveScript = `
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner == ARGV[2] then
  if tonumber(redis.call('HGET', KEYS[1], 'version')) >= tonumber(ARGV[3]) then return 1 end
elseif owner then
  if owner ~= ARGV[1] then return 0 end
elseif ARGV[1] ~= '' then
  return 0
end
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'version', ARGV[3], 'value', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
`

// dropScript implements broker.Log.Drop: KEYS record, ARGV owner.
const dropScript = `if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1`

// begin makes a connection ready for scripts.
func (k *keeping) begin(c *conn) error {
	if c.server == "" {
		return errors.New("redis: a log needs to know when the server was restarted, and INFO does not tell its run_id")
	}
	answers, err := c.pipeline([]string{"SCRIPT", "LOAD", placeScript.text}, []string{"EVAL", runScript, "1", k.counter, c.server}, []string{"INFO", "memory"})
	if err := refusedIn(answers, err); err != nil {
		return err
	}
	info, _ := answers[2].(string)
	_, policy, _ := strings.Cut(info, "maxmemory_policy:")
	policy, _, _ = strings.Cut(policy, "\r\n")
	if infoNumber(info, "maxmemory") != 0 && policy != "noeviction" {
		return fmt.Errorf("redis: the server drops keys when its memory is full (maxmemory-policy %s), and what is logged with them: a log needs noeviction", policy)
	}
	return nil
}

// refusedIn is err, or the first error among answers.
func refusedIn(answers []any, err error) error {
	for _, v := range answers {
		if refused, ok := v.(serverError); ok && err == nil {
			err = refusal(refused)
		}
	}
	return err
}

// appendPlaced appends the command that publishes a message, but for its data.
func (k *keeping) appendPlaced(dst []byte, m *broker.Message, channels *channels) []byte {
	keys := 1
	if m.Log != "" {
		keys = 3
	}
	dst = appendHeader(dst, '*', 3+keys+7)
	dst = appendBulk(appendBulk(appendBulk(dst, "EVALSHA"), placeScript.name), strconv.Itoa(keys))
	dst = appendBulk(dst, k.counter)
	if m.Log != "" {
		dst = appendBulk(appendBulk(dst, k.stream(m.Log)), k.known(m.Log))
	}
	dst = channels.appendChannel(appendBulk(dst, k.commands), 0, m.Subject)
	dst = appendBulk(appendBulk(dst, k.age()), strconv.Itoa(k.Length))
	return appendBulk(appendBulk(dst, strconv.Itoa(k.Bytes)), m.Subject)
}

func (k *keeping) stream(log string) string { return k.head + "log:" + log }
func (k *keeping) known(log string) string  { return k.head + "kept:" + log }
func (k *keeping) record(key string) string { return k.head + "session:" + key }
func (k *keeping) age() string              { return strconv.FormatInt(k.Age.Milliseconds(), 10) }

// unplaced is what comes before the data of a message without a place.
const unplaced = "0:"

// cutPlace cuts the place off a message.
func cutPlace(data []byte) (place uint64, rest []byte, ok bool) {
	digits, rest, ok := bytes.Cut(data, []byte(":"))
	if !ok || len(digits) > 17 {
		return 0, nil, false
	}
	n, err := number(digits)
	return uint64(n), rest, err == nil && n >= 0
}

// log implements [broker.Log].
type log struct {
	d *driver
	k *keeping
}

// Log implements [broker.Logger].
func (d *driver) Log() (broker.Log, error) {
	if d.subs.channels.log == nil {
		return nil, broker.ErrNoLog
	}
	return log{d, d.subs.channels.log}, nil
}

const maxLogConns = 8 // for what is asked of a log

// ask sends commands to the server that has the log, and has f take the answers, none of which is an error, if that
// is the one where everybody meets.
func (l log) ask(ctx context.Context, commands [][]string, f func(answers []any) error) error {
	d := l.d
	if err := d.ready(ctx, false); err != nil {
		return err
	}
	select {
	case d.logConns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-d.Closing():
		return broker.ErrClosed
	}
	defer func() { <-d.logConns }()
	r, err := d.topology.fresh(ctx)
	if err != nil {
		return unavailable(err)
	}
	srv := r.publish[0]
	if srv == nil {
		return unavailable(errUncovered)
	}
	var answers []any
	if c := d.idle.take(srv); c != nil {
		answers, err = l.askAt(srv, c, commands)
	}
	if answers == nil { // what was idle may have ended meanwhile; everything may be asked twice
		c, failed := d.topology.dial(ctx, srv)
		if failed != nil {
			return unavailable(failed)
		}
		if err := l.k.begin(c); err != nil {
			c.nc.Close()
			return unavailable(err)
		}
		answers, err = l.askAt(srv, c, commands)
	}
	if err == nil {
		err = refusedIn(answers[:len(commands)], nil)
	}
	if err != nil {
		return err
	}
	return f(answers)
}

// askAt asks on a connection, which is idle afterwards, or closed.
func (l log) askAt(srv *server, c *conn, commands [][]string) ([]any, error) {
	answers, err := c.pipeline(append(commands[:len(commands):len(commands)], []string{"HELLO", "2"})...)
	if err == nil {
		err = l.proven(c, answers[len(answers)-1])
	}
	if err != nil {
		c.nc.Close()
		return nil, unavailable(err)
	}
	l.d.idle.put(srv, c)
	return answers, nil
}

// proven reports why the server is not proven to be the one where everybody meets.
func (l log) proven(c *conn, hello any) error {
	fields, _ := hello.([]any)
	if i := slices.Index(fields, any("role")); i < 0 || i+1 == len(fields) || fields[i+1] != "master" {
		return errReplica
	}
	if _, why := l.d.topology.left(c); why != nil {
		return why
	}
	if !l.d.topology.sure(c, 0) {
		return errors.New("redis: nobody knows for sure just now where the log is")
	}
	return nil
}

func (l log) Age() time.Duration { return l.k.Age }

func (l log) Head(ctx context.Context) (head uint64, err error) {
	err = l.ask(ctx, [][]string{{"EVAL", headScript, "1", l.k.counter}}, func(answers []any) error {
		if head = placeOf(answers[0]); head == 0 {
			return unavailable(errProtocol)
		}
		return nil
	})
	return head, err
}

// placeOf is a place that the server has told as text; 0 if that is none.
func placeOf(v any) uint64 {
	text, _ := v.(string)
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}

// timeOf is an answer to TIME in microseconds.
func timeOf(v any) uint64 {
	if t, _ := v.([]any); len(t) == 2 {
		return placeOf(t[0])*1e6 + placeOf(t[1])
	}
	return 1
}

func (l log) Read(ctx context.Context, parts []broker.Part) (msgs []broker.Message, head uint64, err error) {
	commands := [][]string{{"MULTI"}, {"EVAL", headScript, "1", l.k.counter}, {"HGET", l.k.counter, "base"}, {"TIME"}}
	for _, p := range parts {
		commands = append(commands, []string{"XRANGE", l.k.stream(p.Log), strconv.FormatUint(p.After+1, 10), "+"}, []string{"HGET", l.k.known(p.Log), "d"})
	}
	commands = append(commands, []string{"EXEC"})
	err = l.ask(ctx, commands, func(answers []any) error {
		list, _ := answers[len(commands)-1].([]any)
		if len(list) != 3+2*len(parts) {
			return unavailable(errProtocol)
		}
		base := placeOf(list[1])
		if head = placeOf(list[0]); head == 0 {
			return unavailable(errProtocol)
		}
		oldest := max(base, timeOf(list[2])-uint64(l.k.Age.Microseconds()))
		for i, p := range parts {
			if base == 0 || p.After < oldest || p.After > head || placeOf(list[4+2*i]) > p.After {
				return broker.ErrForgotten
			}
			entries, _ := list[3+2*i].([]any)
			for _, e := range entries {
				m, ok := entryOf(e)
				if !ok {
					return unavailable(errProtocol)
				}
				m.Log = p.Log
				msgs = append(msgs, m)
			}
		}
		slices.SortFunc(msgs, func(a, b broker.Message) int { return cmp.Compare(a.Place, b.Place) })
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return msgs, head, nil
}

// entryOf is an entry of a stream.
func entryOf(v any) (m broker.Message, ok bool) {
	e, _ := v.([]any)
	if len(e) != 2 {
		return m, false
	}
	id, _ := e[0].(string)
	fields, _ := e[1].([]any)
	if len(fields) != 4 {
		return m, false
	}
	place, _, _ := strings.Cut(id, "-")
	subject, _ := fields[1].(string)
	data, _ := fields[3].(string)
	return broker.Message{Subject: subject, Data: []byte(data), Place: placeOf(place)}, true
}

func (l log) Load(ctx context.Context, key string) (r broker.Record, err error) {
	err = l.ask(ctx, [][]string{{"HMGET", l.k.record(key), "owner", "version", "value"}}, func(answers []any) error {
		if f, _ := answers[0].([]any); len(f) == 3 && f[0] != nil {
			value, _ := f[2].(string)
			r.Owner, _ = f[0].(string)
			r.Version, r.Value = placeOf(f[1]), []byte(value)
		}
		return nil
	})
	return r, err
}

func (l log) Save(ctx context.Context, key, was string, r broker.Record) (saved bool, err error) {
	command := []string{"EVAL", saveScript, "1", l.k.record(key), was, r.Owner, strconv.FormatUint(r.Version, 10), string(r.Value), l.k.age()}
	err = l.ask(ctx, [][]string{command}, func(answers []any) error {
		saved = answers[0] == int64(1)
		return nil
	})
	return saved, err
}

func (l log) Drop(ctx context.Context, key, owner string) error {
	return l.ask(ctx, [][]string{{"EVAL", dropScript, "1", l.k.record(key), owner}}, func([]any) error { return nil })
}
