"""Send usage with the CloudEvents SDK: `python cloudevents_http.py RUN`."""

import os
import sys
import time

import requests
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

URL = os.environ["KHATA_INGEST_URL"] + "/v1/events"
KEY = {"Authorization": "Bearer " + os.environ["KHATA_API_KEY"]}
AGAIN = (429, 500, 503)


def usage(event_id: str, subject: str, tokens: int) -> CloudEvent:
    """The id comes from what happened, so that sending it again is the same event."""
    return CloudEvent(
        {
            "id": event_id,
            "source": "example/cloudevents-sdk",
            "type": "api.request",
            "subject": subject,
            "datacontenttype": "application/json",
        },
        {"tokens": tokens},
    )


def send(message: HTTPMessage) -> None:
    """Repeat the same event until Khata has an answer that stands."""
    for attempt in range(10):
        try:
            answer = requests.post(URL, headers={**message.headers, **KEY}, data=message.body, timeout=30)
        except requests.ConnectionError as error:
            print(f"no answer, sending again: {error}", file=sys.stderr)
            time.sleep(2**attempt / 10)
            continue
        if answer.status_code not in AGAIN:
            answer.raise_for_status()
            return
        time.sleep(float(answer.headers.get("Retry-After", "1")))
    sys.exit("Khata did not take the event")


run = sys.argv[1]
send(to_binary_event(usage(f"{run}-1", "alice", 1250)))
send(to_structured_event(usage(f"{run}-2", "Zoë", 3)))
