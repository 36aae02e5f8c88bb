package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"tether/broker"
)

const (
	oldestMajor, oldestMinor = 2, 11 // has batches of direct gets, and messages with a time to live

	runKey      = "run"
	unloggedTTL = "1s" // for which what is in no log is kept: the least that there is
	maxTries    = 16   // of what others may do at the same time

	// lostPlaces is more than a server may give and lose before they are on its disk.
	lostPlaces = 1 << 24
)

var (
	errNoJetStream = errors.New("the server has no JetStream, which a log needs: start it with --jetstream")
	errElsewhere   = errors.New("a log needs one server that all connect to: this one is in a cluster, or has its JetStream elsewhere")
	errOtherSide   = errors.New("a log needs one server that all connect to: another one, at the other side of a leaf node, stores what is published here")
	errForged      = errors.New("somebody else has written the generation of the log")
	errGeneration  = errors.New("nats: the log was replaced, or its server")
)

func (k *keeping) eventsConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: k.events, Subjects: []string{k.prefix + "l.>"},
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage, Replicas: 1,
		MaxAge: k.Age, MaxMsgsPerSubject: int64(k.Length) + 1, MaxBytes: int64(k.Bytes), MaxMsgs: -1, MaxConsumers: -1, MaxMsgSize: -1,
		RePublish:   &jetstream.RePublish{Source: k.prefix + "l.*.>", Destination: k.prefix + "r.>"},
		AllowDirect: true, AllowMsgTTL: true, DenyDelete: true, DenyPurge: true,
	}
}

func (k *keeping) recordsConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: k.records, Subjects: []string{k.prefix + "k.>"},
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, Storage: jetstream.FileStorage, Replicas: 1,
		MaxMsgsPerSubject: 1, MaxBytes: int64(k.recordBytes), MaxMsgs: -1, MaxConsumers: -1, MaxMsgSize: -1,
		AllowMsgTTL: true,
	}
}

// api asks the JetStream of the server. What it refuses is a [*jetstream.APIError].
func (k *keeping) api(ctx context.Context, subject string, question, answer any) error {
	m := &natsio.Msg{Subject: "$JS.API." + subject}
	if question != nil {
		var err error
		if m.Data, err = json.Marshal(question); err != nil {
			return err
		}
	}
	got, err := k.ask(ctx, m)
	if errors.Is(err, natsio.ErrNoResponders) {
		err = unavailable("log", errNoJetStream)
	}
	if err != nil {
		return err
	}
	return decode(got.Data, answer)
}

// decode reads an answer, which may be an error.
func decode(data []byte, answer any) error {
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	err := json.Unmarshal(data, &failed)
	if err == nil && failed.Error != nil {
		return failed.Error
	}
	if err == nil {
		err = json.Unmarshal(data, answer)
	}
	if err != nil {
		return unavailable("log", err)
	}
	return nil
}

// isCode reports whether JetStream has refused something with one of these codes.
func isCode(err error, codes ...jetstream.ErrorCode) bool {
	var refused *jetstream.APIError
	if !errors.As(err, &refused) {
		return false
	}
	for _, c := range codes {
		if refused.ErrorCode == c {
			return true
		}
	}
	return false
}

// prepare finds the generation of an epoch, and makes what is not there.
func (k *keeping) prepare(ctx context.Context, e epoch) error {
	g, err := k.find(ctx)
	if err == nil && !k.link.is(e) {
		err = errReplaced
	}
	if err != nil {
		k.set(nil, err)
		return err
	}
	g.epoch = e.n
	k.set(g, nil)
	return nil
}

func (k *keeping) find(ctx context.Context) (*generation, error) {
	begin, server := time.Now(), k.conn.ConnectedServerId() // first: what is read from another one is then another generation
	if err := k.checkServer(ctx); err != nil {
		return nil, err
	}
	info, err := k.stream(ctx, k.eventsConfig())
	if err != nil {
		return nil, err
	}
	if _, err := k.stream(ctx, k.recordsConfig()); err != nil {
		return nil, err
	}
	g, err := k.begin(ctx, server, info)
	if err != nil {
		return nil, err
	}
	// Places only grow: else somebody has forged it, and positions of clients would be counted otherwise.
	if o := k.known; o != nil && !g.is(o) && (g.Base <= o.Base || o.Created.Equal(info.Created) && g.Base <= o.place(info.State.LastSeq)) {
		return nil, fmt.Errorf("nats: %w: if nobody is found who writes to %sk.%s delete the streams %s and %s", errForged, k.prefix, runKey, k.events, k.records)
	}
	k.known = g
	g.sure = begin
	return g, k.anchor(ctx)
}

// checkServer says what the server lacks.
func (k *keeping) checkServer(ctx context.Context) error {
	var major, minor int
	version := k.conn.ConnectedServerVersion()
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n == 2 && (major < oldestMajor || major == oldestMajor && minor < oldestMinor) {
		return fmt.Errorf("nats: a log needs nats-server %d.%d or later, and this one is %s", oldestMajor, oldestMinor, version)
	}
	answer, err := k.ask(ctx, &natsio.Msg{Subject: "$SYS.REQ.USER.INFO"})
	if err != nil {
		return err
	}
	var user struct {
		Server struct {
			Cluster   string `json:"cluster"`
			JetStream bool   `json:"jetstream"`
		} `json:"server"`
	}
	if err := decode(answer.Data, &user); err != nil {
		return err
	}
	if user.Server.Cluster != "" {
		return fmt.Errorf("nats: %w", errElsewhere)
	}
	var account struct{}
	switch err := k.api(ctx, "INFO", nil, &account); {
	case isCode(err, jetstream.JSErrCodeJetStreamNotEnabledForAccount):
		return errors.New("nats: the account of the user has no JetStream, which a log needs")
	case isCode(err, jetstream.JSErrCodeJetStreamNotEnabled):
		return fmt.Errorf("nats: %w", errNoJetStream)
	case err != nil:
		return err
	}
	if !user.Server.JetStream {
		return fmt.Errorf("nats: %w", errElsewhere)
	}
	return nil
}

// stream makes a stream that is not there, and otherwise looks whether it is as it should be.
func (k *keeping) stream(ctx context.Context, want jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	info := new(jetstream.StreamInfo)
	err := k.api(ctx, "STREAM.INFO."+want.Name, nil, info)
	if isCode(err, jetstream.JSErrCodeStreamNotFound) && want.Name == k.events && k.anchor(ctx) == nil {
		// Somebody stores it all the same: on this server, if it was made just now.
		if err = k.api(ctx, "STREAM.INFO."+want.Name, nil, info); isCode(err, jetstream.JSErrCodeStreamNotFound) {
			return nil, fmt.Errorf("nats: %w", errOtherSide)
		}
	}
	if isCode(err, jetstream.JSErrCodeStreamNotFound) {
		err = k.api(ctx, "STREAM.CREATE."+want.Name, want, info)
		if isCode(err, jetstream.JSErrCodeStreamNameInUse) { // somebody has just made another one
			err = k.api(ctx, "STREAM.INFO."+want.Name, nil, info)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("nats: stream %s: %w", want.Name, err)
	}
	if what := k.differs(&info.Config, &want); what != "" {
		return nil, fmt.Errorf("nats: stream %s is another one: %s. All nodes and emitters need the same; to change it end them all and delete the streams %s and %s",
			want.Name, what, k.events, k.records)
	}
	return info, nil
}

// differs says in what two streams differ.
func (k *keeping) differs(is, want *jetstream.StreamConfig) string {
	bytes := "log_bytes"
	if want.Name == k.records {
		bytes = "log_records"
	}
	for _, f := range []struct {
		what     string
		is, want any
	}{
		{"log in the URL", is.MaxAge, want.MaxAge},
		{"log_length in the URL", is.MaxMsgsPerSubject - 1, want.MaxMsgsPerSubject - 1},
		{bytes + " in the URL", is.MaxBytes, want.MaxBytes},
		{"max_msgs", is.MaxMsgs, want.MaxMsgs},
		{"subjects", is.Subjects, want.Subjects},
		{"retention", is.Retention, want.Retention},
		{"discard", is.Discard, want.Discard},
		{"storage", is.Storage, want.Storage},
		{"num_replicas", is.Replicas, want.Replicas},
		{"republish", is.RePublish, want.RePublish},
		{"subject_transform", is.SubjectTransform, want.SubjectTransform},
		{"allow_direct", is.AllowDirect, want.AllowDirect},
		{"allow_msg_ttl", is.AllowMsgTTL, want.AllowMsgTTL},
		{"deny_delete", is.DenyDelete, want.DenyDelete},
		{"deny_purge", is.DenyPurge, want.DenyPurge},
		{"no_ack", is.NoAck, want.NoAck},
		{"sealed", is.Sealed, want.Sealed},
	} {
		if !reflect.DeepEqual(f.is, f.want) {
			return fmt.Sprintf("its %s is %v, not %v", f.what, f.is, f.want)
		}
	}
	return ""
}

// begin returns the generation of the server and of the stream, which it begins if nobody has.
func (k *keeping) begin(ctx context.Context, server string, info *jetstream.StreamInfo) (*generation, error) {
	for range maxTries {
		g, at, err := k.stored(ctx)
		if err != nil {
			return nil, err
		}
		if g.Server == server && g.Created.Equal(info.Created) {
			return g, nil
		}
		base, last := uint64(time.Now().UnixMicro()), info.State.LastSeq
		if at != 0 {
			base = max(base, g.Base+max(last, g.Before)-g.Before+lostPlaces)
		}
		if k.known != nil { // the records may be gone
			base = max(base, k.known.Base+lostPlaces)
		}
		g = &generation{Server: server, Created: info.Created, Base: base, Before: last}
		data, err := json.Marshal(g)
		if err != nil {
			return nil, err
		}
		switch err := k.put(ctx, k.prefix+"k."+runKey, data, at, 0); {
		case err == nil:
			return g, nil
		case !isCode(err, jetstream.JSErrCodeStreamWrongLastSequence):
			return nil, err
		}
	}
	return nil, unavailable("log", errors.New("others change it all the time"))
}

// stored returns the generation that was begun last, and the sequence of its record; 0: there is none.
func (k *keeping) stored(ctx context.Context) (g *generation, at uint64, err error) {
	data, at, err := k.last(ctx, k.prefix+"k."+runKey)
	g = new(generation)
	if err == nil && at != 0 {
		err = json.Unmarshal(data, g)
	}
	return g, at, err
}

// put stores a record behind the one at a sequence, 0 if there is none, for a time, or for ever. The sequence has always the same
// length: a full stream takes a record in the place of one that is not shorter.
func (k *keeping) put(ctx context.Context, subject string, data []byte, behind uint64, ttl time.Duration) error {
	m := &natsio.Msg{Subject: subject, Data: data, Header: natsio.Header{headerExpected: {fmt.Sprintf("%020d", behind)}}}
	if ttl > 0 {
		m.Header[headerTTL] = []string{strconv.FormatInt(int64((ttl+time.Second-1)/time.Second), 10)}
	}
	answer, err := k.ask(ctx, m)
	if err != nil {
		return err
	}
	var stored struct{}
	return decode(answer.Data, &stored)
}

// last returns the record on a subject, and its sequence; 0: there is none.
func (k *keeping) last(ctx context.Context, subject string) (data []byte, sequence uint64, err error) {
	var got struct {
		Message struct {
			Sequence uint64 `json:"seq"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	err = k.api(ctx, "STREAM.MSG.GET."+k.records, map[string]string{"last_by_subj": subject}, &got)
	if isCode(err, jetstream.JSErrCodeMessageNotFound) {
		return nil, 0, nil
	}
	return got.Message.Data, got.Message.Sequence, err
}

// anchor adds the anchor of this second, unless it is there.
func (k *keeping) anchor(ctx context.Context) error {
	err := k.put(ctx, k.prefix+"l.anchor-"+strconv.FormatInt(time.Now().Unix(), 10), nil, 0, 0)
	if isCode(err, jetstream.JSErrCodeStreamWrongLastSequence) {
		return nil
	}
	return err
}

// check looks whether a generation is still the present one, and adds an anchor.
func (k *keeping) check(ctx context.Context, g *generation) error {
	begin := time.Now()
	info, err := k.stream(ctx, k.eventsConfig())
	if err != nil {
		return err
	}
	is, _, err := k.stored(ctx)
	if err != nil {
		return err
	}
	if !is.is(g) || !info.Created.Equal(g.Created) {
		return errGeneration
	}
	if err := k.anchor(ctx); err != nil { // last: if others listen there, nobody says that the stream is gone
		return err
	}
	sure := *g
	sure.sure = begin
	k.now.CompareAndSwap(g, &sure)
	return nil
}

// lookAtLog looks whether the generation is over. If it is, or if that is not known, the connection is made ready anew.
func (b *Broker) lookAtLog() error {
	e := b.link.current()
	g := b.kept.of(e)
	if g == nil || b.cluster.joined.Load() != e.n {
		return nil
	}
	err := b.kept.check(context.Background(), g)
	switch {
	case err == nil || !b.link.is(e) || b.isDone():
		return nil
	case errors.Is(err, errSilent): // which says nothing of the generation
		b.log.Warn("nats: the stream of the log does not answer", "error", err)
		return err
	}
	b.log.Warn("nats: the log cannot be used as it was", "error", err)
	b.kept.set(nil, err)
	b.cluster.joined.Store(0)
	if r := b.run.Load(); r != nil {
		r.gaps.open(g.sure, "", err)
		signal(r.fresh)
	}
	return err
}

var _ broker.Logger = (*Broker)(nil)
