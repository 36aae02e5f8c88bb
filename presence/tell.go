package presence

import (
	"context"
	"errors"
	"slices"
	"time"

	"tether/hub"
)

// pagePause is between two parts of the whole.
const pagePause = 20 * time.Millisecond

// serveRoom tells the watchers of a room, until there is nothing to tell. All of a room is told by one goroutine, so that
// it is in order.
func (p *Presence) serveRoom(w *watched) {
	defer p.work.End()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.up && p.watched[w.key] == w {
		pause := p.tellRoomLocked(w)
		if pause == 0 && len(w.news) == 0 {
			break
		}
		p.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-w.news:
		case <-timer.C:
		case <-p.hooks.Done():
		}
		timer.Stop()
		p.mu.Lock()
	}
	w.serving = false
}

// tellRoomLocked tells what is due. It returns when there may be more; 0: when something happens. It gives the lock
// up while it emits.
func (p *Presence) tellRoomLocked(w *watched) (pause time.Duration) {
	if p.view == nil {
		return 0
	}
	unknown, settled := w.unknownLocked(p.view)
	if !settled {
		return max(time.Millisecond, roomPatience-time.Since(w.since))
	}
	now := time.Now()
	again := w.next
	if !now.Before(w.next) {
		var c RoomChange
		c, again = w.changeLocked(now)
		if !slices.Equal(unknown, w.unknown) {
			w.unknown = append([]string{}, unknown...)
			c.Unknown = w.unknown
		}
		if len(c.Came)+len(c.Left) > 0 || c.Unknown != nil {
			w.next = now.Add(p.o.RoomInterval)
			if w.anyBegun() {
				p.emitLocked(w, c)
			}
		}
	} else if len(w.changed) == 0 && slices.Equal(unknown, w.unknown) {
		again = time.Time{}
	}
	if !again.IsZero() {
		pause = max(time.Millisecond, time.Until(again))
	}
	if p.tellWholeLocked(w) {
		pause = pagePause
	}
	return pause
}

func (w *watched) anyBegun() bool {
	for _, k := range w.watchers {
		if k.begun {
			return true
		}
	}
	return false
}

// emitLocked emits to all watchers of a room on this node, in pieces that are not too large.
func (p *Presence) emitLocked(w *watched, c RoomChange) {
	p.mu.Unlock()
	defer p.mu.Lock()
	for first := true; first || len(c.Came)+len(c.Left) > 0; first = false {
		piece := c
		piece.Came, piece.Left = nil, nil
		for size := 0; size < batchBytes && len(c.Left) > 0; c.Left = c.Left[1:] {
			piece.Left = append(piece.Left, c.Left[0])
			size += len(c.Left[0]) + 4
		}
		for size := 0; size < batchBytes && len(c.Came) > 0; c.Came = c.Came[1:] {
			piece.Came = append(piece.Came, c.Came[0])
			size += len(c.Came[0].Name) + len(c.Came[0].Data) + 20
		}
		if _, err := w.emitter.Emit(p.hooks, watchersOf(w.room), p.o.RoomEvent, piece); err != nil {
			p.log.Error("the sockets that watch a room are not told of a change", "room", w.room, "error", err)
		}
		c.Unknown = nil
	}
}

// tellWholeLocked sends the sockets that are new a part of the whole. It reports whether there is more to send.
func (p *Presence) tellWholeLocked(w *watched) (more bool) {
	done, cancel := context.WithCancel(p.hooks)
	cancel()
	for s, k := range w.watchers {
		if k.joining || k.begun && len(k.rest) == 0 {
			continue
		}
		p.mu.Unlock()
		err := s.Wait(done) // it only looks
		p.mu.Lock()
		if err == nil && w.watchers[s] == k {
			c := w.pageLocked(k)
			p.mu.Unlock()
			err = s.Overflow(hub.CloseSlow).Emit(p.o.RoomEvent, c)
			p.mu.Lock()
		}
		more = more || len(k.rest) > 0 || !k.begun
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, hub.ErrDisconnected) {
			p.log.Error("the sockets that watch a room are not told who is there", "room", w.room, "error", err)
		}
	}
	return more
}
