"""The week as a picture: calls of Todoist and of the LLM by cause, and how long an answer took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.week.measured import Answered, Week

_OURS = ("#0b5394", "#3d85c6", "#9fc5e8", "#d0e0f0")
_OTHERS = ("#b45f06", "#999999")
_LLM = ("#6a329f", "#a64d79", "#d5a6bd", "#ead1dc")
_SPARED = ("#cfe8cf", "#a7d3a7", "#7fbf7f")


def draw(weeks: Sequence[Week], title: str, path: Path) -> None:
    """Write a PNG of the system's week, the first, beside those of assembly on demand."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    todoist, llm, seconds = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    _calls(todoist, "Todoist calls", [week.todoist for week in weeks])
    _llm(llm, weeks)
    _seconds(seconds, weeks)
    figure.savefig(path, dpi=150)


def _calls(axes: Axes, title: str, counted: Sequence[Mapping[str, int]]) -> None:
    _stack(axes, 0, counted[0], _OURS)
    for x, (calls, colour) in enumerate(zip(counted[1:], _OTHERS, strict=True), 1):
        axes.bar(x, sum(calls.values()), color=colour)
        axes.text(x, sum(calls.values()), f"{sum(calls.values()):,}", ha="center", va="bottom", fontsize=8)
    axes.text(0, sum(counted[0].values()), f"{sum(counted[0].values()):,}", ha="center", va="bottom", fontsize=8)
    _name(axes, title)


def _llm(axes: Axes, weeks: Sequence[Week]) -> None:
    _stack(axes, 0, weeks[0].llm, _LLM)
    _stack(axes, 0, {f"spared: {name}": n for name, n in weeks[0].spared.items()}, _SPARED, above=weeks[0].n_llm)
    axes.text(0, weeks[0].n_llm, f"{weeks[0].n_llm:,}", ha="center", va="bottom", fontsize=8)
    for x, (week, colour) in enumerate(zip(weeks[1:], _OTHERS, strict=True), 1):
        axes.bar(x, week.n_llm, color=colour)
        axes.text(x, week.n_llm, f"{week.n_llm:,}", ha="center", va="bottom", fontsize=8)
    _name(axes, "Requests, and LLM calls for them")


def _stack(axes: Axes, x: int, parts: Mapping[str, int], colours: Iterable[str], *, above: int = 0) -> None:
    for (name, n), colour in zip(parts.items(), colours, strict=False):
        axes.bar(x, n, bottom=above, color=colour, label=f"{name}: {n:,}")
        above += n


def _name(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(3), ["this system", "on demand\none /sync", "on demand\npaged"], fontsize=8)
    axes.margins(y=0.35)
    axes.tick_params(axis="y", labelsize=8)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize=7, loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _seconds(axes: Axes, weeks: Sequence[Week]) -> None:
    """Cumulative shares over a logarithm of the time; a dot where 99 % are answered."""
    ahead, *others = weeks
    _curve(axes, ahead.quick, "this system, no LLM needed", _OURS[0])
    _curve(axes, ahead.answers, "this system, all", _OURS[1])
    for week, colour in zip(others, _OTHERS, strict=True):
        _curve(axes, week.answers, week.name, colour)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds until the answer", fontsize=8)
    axes.set_title("Share of requests answered; dots: p99", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="lower center", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(axes: Axes, answers: Sequence[Answered], name: str, colour: str) -> None:
    ms = np.sort([1000 * each.seconds for each in answers])
    axes.plot(ms, np.arange(1, len(ms) + 1) / len(ms), color=colour, label=name, drawstyle="steps-post")
    axes.plot(np.percentile(ms, 99), 0.99, "o", color=colour, markersize=5)
