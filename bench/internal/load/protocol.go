package load

import "tether/bench/internal/check"

// Commands to a load process.
const (
	opGrow   = "grow"   // to N connections; answered when the last handshake has ended
	opWindow = "window" // count what is received From, To
	opChurn  = "churn"  // On or off
	opEmit   = "emit"   // Emission
	opReset  = "reset"  // forget the handshakes so far
	opResult = "result" // settle with Sent and answer with a Result
)

type command struct {
	ID       int          `json:"id,omitempty"`
	Op       string       `json:"op"`
	N        int          `json:"n,omitempty"`
	From     int64        `json:"from,omitempty"`
	To       int64        `json:"to,omitempty"`
	On       bool         `json:"on,omitempty"`
	Emission *Emission    `json:"emission,omitempty"`
	Sent     []check.Sent `json:"sent,omitempty"`
}

// reply answers the command with its ID, or is a snapshot when the ID is 0.
type reply struct {
	ID       int       `json:"id,omitempty"`
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	Result   *Result   `json:"result,omitempty"`
	Err      string    `json:"err,omitempty"`
}
