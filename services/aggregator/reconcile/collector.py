"""The garbage collector stands aside while millions of records pass: measured, it takes a third to half of the CPU.

Records have no cycles, so they are freed as they go. What clients leave in cycles is young, and collected at the end.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def aside() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
        gc.collect(0)
