"""How figures are told: the median of several runs, beside its target and a limit taken in the same minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """`runs` in `unit`; `target` is the least wanted, or the most where `less_is_better`."""

    what: str
    runs: Sequence[float]
    unit: str = "events/s"
    target: float | None = None
    less_is_better: bool = False
    limit: str = ""
    limit_runs: Sequence[float] = ()
    note: str = ""

    @property
    def value(self) -> float:
        return median(self.runs)

    @property
    def reached(self) -> bool:
        if self.target is None:
            return True
        return self.value <= self.target if self.less_is_better else self.value >= self.target

    def cells(self) -> tuple[str, ...]:
        spread = f" ({number(min(self.runs))} to {number(max(self.runs))})" if len(self.runs) > 1 else ""
        target = "" if self.target is None else f"{'≤' if self.less_is_better else '≥'} {number(self.target)}"
        limit = median(self.limit_runs) if self.limit_runs else None
        return (
            self.what,
            f"{number(self.value)}{spread}",
            self.unit,
            target + ("" if self.reached else " ✗"),
            self.limit,
            "" if limit is None else number(limit),
            "" if limit is None else f"{self.value / limit:.2f}",
            self.note,
        )


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(title: str, figures: Sequence[Figure]) -> Table:
    made = Table(title=title, title_justify="left")
    for name in ("what", "median (runs)", "unit", "target", "limit of this run", "limit", "ratio", "note"):
        made.add_column(name, justify="left" if name in ("what", "unit", "limit of this run", "note") else "right")
    for figure in figures:
        made.add_row(*figure.cells())
    return made
