"""Every error Khata raises on purpose, named by what the caller does next.

KhataError
├── Retryable            try the same thing again after a pause; never a dead letter
│   ├── DatabaseAway
│   ├── BrokerAway
│   └── ProviderAway     Razorpay did not answer, or answered "later"
├── Rejected             this record or request is wrong: dead letter or 4xx with `code`, carry on
├── Fenced               another owner moved the offsets on: drop the batch, read the position again
├── NeedsPerson          opens a case; only this organisation or payment stops
├── Usage                the operator's command cannot be carried out as typed (exit 2)
└── Fatal                stop the process; an operator must look (exit 1)
    ├── LogMoved         the topic under the stored offset is not the one we read
    └── Misconfigured    settings, schema or topics are not what the code needs (exit 78)
"""

from __future__ import annotations


class KhataError(Exception):
    """Base of all errors raised on purpose; its text is one sentence that says what to do."""


class Retryable(KhataError):
    """The same call may succeed later; nothing about the input is wrong."""


class DatabaseAway(Retryable):
    """Postgres cannot be reached, or ended the transaction for reasons of its own."""


class BrokerAway(Retryable):
    """Kafka did not acknowledge within the deadline."""


class ProviderAway(Retryable):
    """The payment provider did not answer, or asked to be called later; the outcome may be unknown."""


class Rejected(KhataError):
    """One record or request is wrong and will stay wrong.

    `code` is stable and machine-readable (`unknown_meter`, `too_late`); the text is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Fenced(KhataError):
    """Another process has applied records at or after our start; our batch must have no effect."""


class NeedsPerson(KhataError):
    """A person must decide; `code` is the class of the case that is opened."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Usage(KhataError):
    """What the operator typed cannot be done; the text says what to type instead."""


class Fatal(KhataError):
    """The process must stop: going on could make numbers wrong."""


class LogMoved(Fatal):
    """A topic was truncated or made anew under a stored offset."""


class Misconfigured(Fatal):
    """Settings, database schema or topics are not what this code needs."""
