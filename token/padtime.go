package token

import (
	"context"
	"math/rand/v2"
	"time"
)

// A refusal takes between padTime and twice that. It is drawn, because a timer alone is no more precise than
// a millisecond, and what it adds would depend on when it was set.
const padTime = 8 * time.Millisecond

// PadTime returns between 8 and 16 ms after began, which is when a token came, or when ctx is done. A server
// calls it before it refuses the token, so that how long the answer takes does not tell why: whether the
// token was cut, changed, sealed with another key, or is good no longer. It calls it from where waiting
// holds up nobody but the client, a connect hook say.
func PadTime(ctx context.Context, began time.Time) {
	timer := time.NewTimer(time.Until(began.Add(padTime + rand.N(padTime))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
