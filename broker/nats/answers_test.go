package nats

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"
)

// listening returns a cluster at server "A" that has sent marks up to stamp 1000, with the gaps that it
// tells of.
func listening() (c *cluster, gaps *[]time.Time) {
	gaps = new([]time.Time)
	c = &cluster{
		link: newLink(nil), base: time.Now().Add(-time.Hour),
		hello: "tether.c", all: "tether.m", inbox: "_INBOX.x.C.", log: slog.Default(),
		servers: make(map[string]*server), changed: make(chan struct{}),
		here: place{id: "A"}, last: 1000,
	}
	c.tell(func(since time.Time, _ error) { *gaps = append(*gaps, since) })
	return c, gaps
}

// FuzzClusterTakesAnything reads what anybody may send to the inbox, or as a hello.
func FuzzClusterTakesAnything(f *testing.F) {
	f.Add("_INBOX.x.C.rs", "B 5", "")
	f.Add("_INBOX.x.C.rs._", "", "")
	f.Add("_INBOX.x.C.rs.B", "", "503")
	f.Add("_INBOX.x.C.rs.", "", "503")
	f.Add("_INBOX.x.C.rs", "B 5 cluster", "")
	f.Add("tether.c", "B 5 clus.ter", "")
	f.Add("_INBOX.x.C.-1._", "", "")
	f.Add("_INBOX.x.C.", "B 99999999999999999999", "")
	f.Add("tether.c", "B 2000", "")
	f.Add("tether.c", "A 1", "")
	f.Add("tether.c", "B.* 1", "")
	f.Add("tether.c", " 1", "")
	f.Add("tether.c", "B -1", "")
	f.Add("tether.c.A", "", "")
	f.Add("tether.m", "x", "")
	f.Fuzz(func(t *testing.T, subject, data, status string) {
		c, _ := listening()
		m := &natsio.Msg{Subject: subject, Data: []byte(data), Header: natsio.Header{"Status": []string{status}}}
		for range 2 { // also twice
			if tail, ok := strings.CutPrefix(subject, c.inbox); ok {
				c.readAnswer(tail, m)
			} else {
				c.read(m)
			}
		}
		for id, s := range c.servers {
			if id == "A" || s.answered > c.last {
				t.Errorf("server %q: %+v", id, *s)
			}
			if again, _, ok := splitHello(appendHello(nil, place{id: id}, 0)); !ok || again.id != id {
				t.Errorf("server %q becomes %q", id, again)
			}
		}
	})
}

func TestOnlyWhoWasThereAllTheTimeMakesAGap(t *testing.T) {
	const second = int64(time.Second)
	for _, c := range []struct {
		name   string
		do     func(c *cluster)
		uptime time.Duration
		want   int
	}{
		{"it answers again soon", func(c *cluster) { c.answered(place{id: "B"}, 100*second+second, time.Hour) }, time.Hour, 0},
		{"it was silent", nil, time.Hour, 1},
		{"it was silent, and somebody has just come", nil, time.Second, 0},
		{"nobody was there, and somebody has come", func(c *cluster) { c.nobodyAt("B", 100*second+1) }, time.Second, 0},
		{"nobody was said to be there, and somebody was", func(c *cluster) { c.nobodyAt("B", 100*second+1) }, time.Hour, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl, gaps := listening()
			cl.last = 3600 * second
			cl.heard(place{id: "B"}, 0)
			cl.answered(place{id: "B"}, 100*second, time.Hour)
			cl.entered = cl.base
			if c.do != nil {
				c.do(cl)
			}
			cl.answered(place{id: "B"}, 103*second-second, c.uptime)
			if c.do == nil {
				cl.answered(place{id: "B"}, 106*second, c.uptime)
			}
			if len(*gaps) != c.want {
				t.Errorf("got gaps since %v, want %d", *gaps, c.want)
			}
		})
	}
}

func TestAServerWhoseHelloWasNotHeardMakesAGap(t *testing.T) {
	c, gaps := listening()
	c.entered = time.Now().Add(-time.Minute)
	c.answered(place{id: "B"}, c.nowLocked(), 10*time.Second)
	if len(*gaps) != 1 || time.Since((*gaps)[0]) < 9*time.Second || time.Since((*gaps)[0]) > 30*time.Second {
		t.Errorf("got gaps since %v, want one since ten seconds ago", *gaps)
	}
	c.heard(place{id: "C"}, 0)
	c.answered(place{id: "C"}, c.nowLocked(), 10*time.Second)
	if len(*gaps) != 1 {
		t.Errorf("got gaps since %v, want no more", *gaps)
	}
}

func TestBrokersThatCameTogetherFarApartMakeAGap(t *testing.T) {
	for _, test := range []struct {
		name                         string
		entered, asked, uptime, want time.Duration // ago; want 0: no gap
	}{
		{"both came at the same time", 200 * time.Millisecond, 300 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond},
		{"they are close to each other", 200 * time.Millisecond, 20 * time.Millisecond, 400 * time.Millisecond, 0},
		{"the other has come later", time.Minute, 300 * time.Millisecond, 100 * time.Millisecond, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, gaps := listening()
			now := time.Now()
			c.entered, c.last = now.Add(-test.entered), int64(now.Sub(c.base))
			c.heard(place{id: "B"}, 0)
			c.answered(place{id: "B"}, int64(now.Add(-test.asked).Sub(c.base)), test.uptime)
			switch {
			case test.want == 0 && len(*gaps) > 0:
				t.Errorf("got gaps since %v, want none", *gaps)
			case test.want > 0 && (len(*gaps) != 1 || !(*gaps)[0].Equal(now.Add(-test.want))):
				t.Errorf("got gaps since %v, want one since %v", *gaps, now.Add(-test.want))
			}
		})
	}
}

func TestAPublisherThatLostItsServerMakesAGap(t *testing.T) {
	c, gaps := listening()
	c.heard(place{id: "B"}, 0)
	c.heard(place{id: "B"}, 2*time.Second)
	if len(*gaps) != 1 || time.Since((*gaps)[0]) < 2*time.Second {
		t.Errorf("got gaps since %v, want one since two seconds ago", *gaps)
	}
}
