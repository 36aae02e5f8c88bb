// Package engine is what an Engine.IO server and the server behind it say to each other: connections,
// packets, the terms that a packet asks for, and why a connection ends. Package transport implements
// [Conn]; package hub implements [Server] and [Receiver]. Neither imports the other.
//
// Applications need this package only to use transport without hub.
package engine
