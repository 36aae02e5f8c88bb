// Package follow answers what became of an event: when it was emitted, which nodes took it, and for each client
// when it was queued, written and acknowledged, or why it was dropped.
//
// A [Follower] is a hub.Tracer. It follows the emits of a [Context], those to targets that an operator has named
// with [Follower.Rule], and one in [Options.Every], and it remembers what the sockets of such a target send; all others cost a look at what is to be followed. An event that is
// followed takes 33 bytes more between the nodes. Each process remembers a bounded number of events for a while, and
// is asked for them by [Follower.Ask]. Names of events are remembered, arguments never.
//
// Nodes follow, and answer, only what comes with one of their keys.
package follow
