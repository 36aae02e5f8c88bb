package sim

// planted are bugs of the second list, of the hub and the transport: lines that change places, bounds that are off by one, looks that
// are not taken again. See mutants.
var planted = []mutant{
	{
		"a room that loses one of two members loses both", "blocks.go",
		"\tif r.n == 0 && withdrawn == 0 {\n\t\tr.rest.Store(nil)",
		"\tif r.n <= 1 {\n\t\tr.rest.Store(nil)",
	}, {
		"a room can be queued while a call about it is under way", "index.go",
		"\tif r.queued || r.busy || r.subscribed",
		"\tif r.queued || r.subscribed",
	}, {
		"the room that is left is not forgotten", "interest.go",
		"\t\tif sh.idleLocked(r) {\n\t\t\tin.index.forgetLocked(sh, r)\n\t\t}\n\t\tsh.releaseLocked(r, nil)\n\t}\n\treturn wanted",
		"\t\tsh.releaseLocked(r, nil)\n\t}\n\treturn wanted",
	}, {
		"who joins while the room is being subscribed does not wait", "index.go",
		"live: r.subscribed}",
		"live: r.subscribed || r.busy}",
	}, {
		"a table that grows forgets a room of each bucket", "index.go",
		"\t\t\tfor j := range t[i].rooms {\n\t\t\t\tif old",
		"\t\t\tfor j := range t[i].rooms[1:] {\n\t\t\t\tif old",
	}, {
		"a search does not go on in the next bucket", "index.go",
		"\t\tif tags < spill {\n\t\t\treturn nil\n\t\t}\n\t}\n\treturn nil",
		"\t\tif tags >= 0 {\n\t\t\treturn nil\n\t\t}\n\t}\n\treturn nil",
	}, {
		"a room that is gone is found for ever", "index.go",
		"\t\t\t\tb.tags.Store(tags &^ (0xff << (8 * j)))\n\t\t\t\tb.rooms[j].Store(nil)\n",
		"\t\t\t\t_ = tags\n",
	}, {
		"a walk through a room ends at a free place", "blocks.go",
		"\t\t\tif s := b[i].Load(); s != nil && !yield(s) {",
		"\t\t\tif s := b[i].Load(); s == nil || !yield(s) {",
	}, {
		"an edge is noted in another shard", "index.go",
		"\tx.dirty[i/64].Or(1 << (i % 64))",
		"\tx.dirty[i/64].Or(1 << (i % 64) & 0xffff_ffff_ffff)",
	}, {
		"the last of a batch that is full is dropped", "interest.go",
		"\t\t\tfor _, r := range sh.queue[:n] {\n",
		"\t\t\tfor _, r := range sh.queue[:n] {\n\t\t\t\tif len(wanted) == 100 {\n\t\t\t\t\tcontinue\n\t\t\t\t}\n",
	}, {
		"rooms behind a batch that is full wait for the next edge", "interest.go",
		"\t\t\t\tword.Or(bit)\n",
		"\t\t\t\t_ = word\n",
	}, {
		"who waits for a subscription is let go when it fails", "interest.go",
		"\tcase subscribed || !wanted:\n\t\tsh.releaseLocked(r, nil)",
		"\tcase subscribed || !wanted || again:\n\t\tsh.releaseLocked(r, nil)",
	}, {
		"a room that was left while it was being subscribed stays", "interest.go",
		"\t\tqueued = sh.edgeLocked(r)\n",
		"\t\tqueued = !subscribed && sh.edgeLocked(r)\n",
	}, {
		"exceptions are looked up in the default namespace", "deliver.go",
		"h.index.lookup(namespace + name)",
		"h.index.lookup(roomSubject(h.options.Prefix, socketio.Root, Room(name[:len(name)+0*len(namespace)])))",
	}, {
		"exceptions do not count on a socket's own room", "deliver.go",
		"\tif x.has(s) {\n\t\treturn 1\n\t}\n\tswitch e.kind {",
		"\t_ = x\n\tswitch e.kind {",
	}, {
		"a disconnect of a socket does not close its connection", "change.go",
		"\t\t\ts.Disconnect(c.closing)\n",
		"\t\t\ts.Disconnect(false)\n",
	}, {
		"of what is held only the last is kept", "connect.go",
		"\theld := s.admission.held.push(p.Keep(),",
		"\ts.admission.held = packets{}\n\theld := s.admission.held.push(p.Keep(),",
	}, {
		"what is held is only lent", "connect.go",
		"\theld := s.admission.held.push(p.Keep(),", "\theld := s.admission.held.push(p,",
	}, {
		"what comes while the held is let go is forgotten", "connect.go",
		"\tfor (s.admission != nil || admission.disconnect) && len(admission.held.list) > 0 {",
		"\tfor i := 0; i < 1 && s.admission != nil && len(admission.held.list) > 0; i++ {",
	}, {
		"DISCONNECT may come before the answer to CONNECT", "socket.go",
		"\tcase stateConnected, stateLogged:\n\t\ts.sendDisconnect()\n",
		"\tcase stateConnected, stateLogged, stateWelcome:\n\t\ts.sendDisconnect()\n",
	}, {
		"a DISCONNECT that had to wait is forgotten", "connect.go",
		"\t\tif admission.disconnect {\n\t\t\ts.sendDisconnect()\n",
		"\t\tif admission.disconnect {\n",
	}, {
		"what was emitted before DISCONNECT may come after it", "socket.go",
		"\tcase stateConnected:\n\t\treturn s.conn.Send(p, &s.gate)\n",
		"\tcase stateConnected:\n\t\treturn s.conn.Send(p, nil)\n",
	}, {
		"the answer to CONNECT may come before the last DISCONNECT", "connect.go",
		"\tc.awaitDepartures()\n",
		"",
	}, {
		"who is refused has joined all the same", "connect.go",
		"\tif s.endBefore(stateParked, false) == stateGone {\n\t\treturn",
		"\tif was := s.gate.State(); was == stateGone {\n\t\treturn",
	}, {
		"a deadline is measured by the wall clock", "client.go",
		"\th.joining.set(c, time.Now().Add(h.options.ConnectTimeout))",
		"\th.joining.set(c, h.options.Time().Add(h.options.ConnectTimeout))",
	}, {
		"an expiry is measured by the monotonic clock", "hub.go",
		"h.sweepExpiry(h.options.Time())",
		"h.sweepExpiry(now)",
	}, {
		"an expiry that is taken back stays", "expiry.go",
		"\tif t.IsZero() {\n\t\th.expiry.unset(s)\n\t\treturn",
		"\tif t.IsZero() {\n\t\treturn",
	}, {
		"a connection without a namespace stays", "client.go",
		"\tc.rearm(was != stateConnecting)\n",
		"\tif was == stateConnecting {\n\t\tc.rearm(false)\n\t}\n",
	}, {
		"the end is told twice", "client.go",
		"\tif again {\n\t\treturn\n\t}\n\tfor _, s := range c.all() {\n\t\ts.lose(reason)",
		"\t_ = again\n\tfor _, s := range c.all() {\n\t\ts.lose(reason)",
	}, {
		"an attachment is kept in the transport's memory", "client.go",
		"\tcopy(attachment, data)\n",
		"\tattachment = data\n",
	}, {
		"an event is kept in the transport's memory", "client.go",
		"\treturn c.receive(s, p, bytes.Clone(p.Data), nil)",
		"\treturn c.receive(s, p, p.Data, nil)",
	}, {
		"the limit on devices is off by one", "devices.go",
		"\texcess := max(len(all)-limit.Max, 0)",
		"\texcess := max(len(all)-limit.Max-1, 0)",
	}, {
		"the census does not hear the other nodes", "devices.go",
		"\t\tif claims, ok := parseClaims(page); ok {\n",
		"\t\tif claims, ok := parseClaims(page); ok && len(c.others) == 0 {\n",
	}, {
		"whose registration is through may be the newest", "devices.go",
		"\t\t\tc.stamp = max(c.stamp, o.stamp+1)\n",
		"",
	}, {
		"answers that nobody got in time are awaited for ever", "acks.go",
		"\tdefer s.unawait(id)\n",
		"",
	}, {
		"a number is given to two questions", "acks.go",
		"\ts.extra.acks.next++\n",
		"\ts.extra.acks.next = (s.extra.acks.next + 1) % 2\n",
	}, {
		"who waits for an answer is not told of the end", "socket.go",
		"\tacks.end(s)\n\tif admission",
		"\t_ = acks\n\tif admission",
	}, {
		"the answer of one goes to another", "acks.go",
		"\tby := s.takeAwaitedLocked(m.ackID)\n",
		"\tby := s.takeAwaitedLocked(m.ackID)\n\tif s.extra != nil && s.extra.acks != nil {\n\t\tfor id, other := range s.extra.acks.waiting {\n\t\t\tif id > m.ackID {\n\t\t\t\tby = other\n\t\t\t}\n\t\t}\n\t}\n",
	}, {
		"a gap ends where it begins", "run.go",
		"\t\th.options.OnGap(g)",
		"\t\th.options.OnGap(broker.Gap{From: g.To, To: g.From, Cause: g.Cause})",
	}, {
		"a drain closes everybody at once", "run.go",
		"elapsed < window {\n\t\t\tdue =",
		"elapsed < 0 {\n\t\t\tdue =",
	}, {
		"a drain closes connections that are still subscribed", "withdraw.go",
		"waited < limit && !l.client.withdraw(",
		"waited < limit && l.client == nil && !l.client.withdraw(",
	}, {
		"what is withdrawn gets nothing more", "index.go",
		"\tm.room.n--\n\tm.live, m.withdrawn",
		"\tm.room.n--\n\tm.room.first.Store(nil)\n\tm.live, m.withdrawn",
	}, {
		"a drain takes new connections", "run.go",
		"\th.draining.Store(true)\n\th.cluster.Announce()\n\th.drain(window, limit)\n",
		"\th.cluster.Announce()\n\th.drain(window, limit)\n\th.draining.Store(true)\n",
	}, {
		"Run does not wait for handlers", "run.go",
		"\tpatience, cancel := context.WithTimeout(inner, h.options.HookTimeout)",
		"\tpatience, cancel := context.WithTimeout(inner, 1)",
	}, {
		"the last of several events is dropped", "inbox.go",
		"\t\tfor i := range tasks {\n\t\t\tc.handle",
		"\t\tfor i := range tasks[:max(1, len(tasks)-1)] {\n\t\t\tc.handle",
	}, {
		"the end overtakes the events before it", "inbox.go",
		"\tin.tasks = append(in.tasks, t)\n",
		"\tif t.message == nil {\n\t\tin.tasks = append([]task{t}, in.tasks...)\n\t} else {\n\t\tin.tasks = append(in.tasks, t)\n\t}\n",
	}, {
		"nobody is told that there is room again", "inbox.go",
		"\tif ready != nil {\n\t\tclose(ready)\n\t}\n",
		"\t_ = ready\n",
	}, {
		"an event is counted twice", "inbox.go",
		"\t\tin.n++\n\t\tin.bytes += t.size",
		"\t\tin.n += 2\n\t\tin.bytes += t.size",
	}, {
		"Leave gives another membership back", "membership.go",
		"\t\t\th.interest.leave(s.rooms[i])\n\t\t\ts.removeLocked(i)",
		"\t\t\th.interest.leave(s.rooms[len(s.rooms)-1])\n\t\t\ts.removeLocked(i)",
	}, {
		"a closed connection's other namespaces are not told", "socket.go",
		"\tfor _, o := range s.client.all() {\n\t\to.kick()\n\t}\n\ts.client.close()",
		"\ts.client.close()",
	}, {
		"a socket that has gone keeps its place", "socket.go",
		"\th.sockets.remove(s.place)\n",
		"",
	}, {
		"Broadcast includes the sender", "socket.go",
		"return s.ns.Emitter().Except(s.Target()) }",
		"return s.ns.Emitter() }",
	}, {
		"receipts of several rooms are mixed up", "emitter.go",
		"\t\t\treceipts[i] = receiptOf(r)\n", "\t\t\treceipts[len(taken)-1-i] = receiptOf(r)\n",
	}, {
		"the last of a backlog is dropped", "../transport/queue.go",
		"\tif b.live--; b.live == 0 {",
		"\tif b.live--; b.live <= 1 {",
	}, {
		"packets that are gathered for one write are dropped", "../transport/flush.go",
		"\t\tw.packets = append(w.packets, p)\n",
		"\t\tif len(w.packets) < 8 {\n\t\t\tw.packets = append(w.packets, p)\n\t\t}\n",
	}, {
		"packets that are gathered change places", "../transport/flush.go",
		"\t\tfor _, p := range w.packets {\n\t\t\tw.buf",
		"\t\tw.packets[0], w.packets[len(w.packets)-1] = w.packets[len(w.packets)-1], w.packets[0]\n\t\tfor _, p := range w.packets {\n\t\t\tw.buf",
	}, {
		"a pong is not noted", "../transport/incoming.go",
		"\t\t\ts.awaiting, s.ping = false, false\n",
		"\t\t\ts.ping = false\n",
	},
}
