#!/bin/sh
# Tells user 42 something, and says whether anybody was there.
curl --silent --show-error --fail-with-body "$HUB_URL/emit" \
  --header "Authorization: Bearer $HUB_KEY" \
  --json '{"user": "42", "event": "/users/ping", "args": [{"hello": "from curl"}]}'
