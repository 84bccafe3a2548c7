#!/bin/sh
# Usage: KHATA_INGEST_URL=... KHATA_API_KEY=... curl.sh RUN
# --retry repeats after 429, 500 and 503 (honouring Retry-After) and when there is no answer; the ids stay the same.
set -eu
run="$1"

send() { # content type, more options
    media_type="$1"
    shift
    curl --silent --show-error --fail-with-body --retry 10 --retry-all-errors --max-time 30 \
        "$KHATA_INGEST_URL/v1/events" \
        --header "Authorization: Bearer $KHATA_API_KEY" \
        --header "Content-Type: $media_type" "$@"
    echo
}

send application/cloudevents+json --data '{
    "specversion": "1.0", "id": "'"$run"'-1", "source": "example/curl",
    "type": "api.request", "subject": "alice", "data": {"tokens": 1250}
}'

printf '%s' '[{
    "specversion": "1.0", "id": "'"$run"'-2", "source": "example/curl",
    "type": "api.request", "subject": "bob", "data": {"tokens": "0.25"}
}]' | gzip | send application/cloudevents-batch+json --header "Content-Encoding: gzip" --data-binary @-
