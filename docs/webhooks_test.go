package docs

import (
	"encoding/json"
	"io"
	"net/http"

	"tether/hub"
	"tether/webhook"
)

// The code of webhooks.md.

func sendWebhooks(h *hub.Hub, key string) error {
	_, err := webhook.New(h, webhook.Options{URL: "https://app.example.com/hooks", Keys: []string{key}})
	return err
}

func takeWebhooks(key string, take func(webhook.Event) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil || webhook.Verify(key, r.Header.Get(webhook.SignatureHeader), body, 0) != nil {
			http.Error(w, "not from the hub", http.StatusUnauthorized)
			return
		}
		var in struct{ Events []webhook.Event }
		if err := json.Unmarshal(body, &in); err != nil {
			http.Error(w, "no events", http.StatusBadRequest)
			return
		}
		for _, e := range in.Events {
			if err := take(e); err != nil { // which ignores an ID that it has seen
				http.Error(w, "later", http.StatusServiceUnavailable) // they all come again
				return
			}
		}
	}
}

var _ = []any{sendWebhooks, takeWebhooks}
