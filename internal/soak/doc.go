// Package soak has tests only: hubs on real transports and real brokers, with clients on loopback
// sockets, under load and faults, and a book (package ledger) that says what was lost.
//
// Without more, each takes some seconds. With TETHER_SOAK=10m (make soak) each that can be repeated
// goes on for that long, with larger numbers. Figures are logged in lines that begin with "figure:".
package soak
