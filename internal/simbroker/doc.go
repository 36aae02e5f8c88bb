// Package simbroker is a broker in memory whose links, nodes and backend fail when they are told to: that of
// the simulator, and of tests of applications. It keeps the times that package broker allows, by whatever
// clock there is, that of a bubble of testing/synctest too.
package simbroker
