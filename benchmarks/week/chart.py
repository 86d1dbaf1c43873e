"""The week as a chart: Todoist calls and LLM calls by cause, and the time until an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.week.measurements import TimedAnswer, WeekResult

_TODOIST_COLOURS = ("#0b5394", "#3d85c6", "#9fc5e8", "#d0e0f0")
_ON_DEMAND_COLOURS = ("#b45f06", "#999999")
_LLM_COLOURS = ("#6a329f", "#a64d79", "#d5a6bd", "#ead1dc")
_SAVED_COLOURS = ("#cfe8cf", "#a7d3a7", "#7fbf7f")


def save_chart(weeks: Sequence[WeekResult], title: str, path: Path) -> None:
    """Write a PNG that compares the week of this system, the first one, with those of assembly on demand."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    todoist, llm, seconds = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    _plot_todoist_calls(todoist, [week.todoist for week in weeks])
    _plot_llm_calls(llm, weeks)
    _plot_seconds(seconds, weeks)
    figure.savefig(path, dpi=150)


def _plot_todoist_calls(axes: Axes, calls_by_cause: Sequence[Mapping[str, int]]) -> None:
    totals = [sum(calls.values()) for calls in calls_by_cause]
    _stack_bars(axes, 0, calls_by_cause[0], _TODOIST_COLOURS)
    for x, (total, colour) in enumerate(zip(totals[1:], _ON_DEMAND_COLOURS, strict=True), 1):
        axes.bar(x, total, color=colour)
    _label_bars(axes, totals)
    _format_bars(axes, "Todoist calls")


def _plot_llm_calls(axes: Axes, weeks: Sequence[WeekResult]) -> None:
    ahead, *others = weeks
    _stack_bars(axes, 0, ahead.llm, _LLM_COLOURS)
    saved = {f"saved: {cause}": n for cause, n in ahead.saved.items()}
    _stack_bars(axes, 0, saved, _SAVED_COLOURS, bottom=ahead.n_llm)
    for x, (week, colour) in enumerate(zip(others, _ON_DEMAND_COLOURS, strict=True), 1):
        axes.bar(x, week.n_llm, color=colour)
    _label_bars(axes, [week.n_llm for week in weeks])
    _format_bars(axes, "Requests, and LLM calls for them")


def _stack_bars(axes: Axes, x: int, parts: Mapping[str, int], colours: Iterable[str], *, bottom: int = 0) -> None:
    for (name, n), colour in zip(parts.items(), colours, strict=False):
        axes.bar(x, n, bottom=bottom, color=colour, label=f"{name}: {n:,}")
        bottom += n


def _label_bars(axes: Axes, totals: Iterable[int]) -> None:
    for x, total in enumerate(totals):
        axes.text(x, total, f"{total:,}", ha="center", va="bottom", fontsize=8)


def _format_bars(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(3), ["this system", "on demand\none /sync", "on demand\npaged"], fontsize=8)
    axes.margins(y=0.35)
    axes.tick_params(axis="y", labelsize=8)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize=7, loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_seconds(axes: Axes, weeks: Sequence[WeekResult]) -> None:
    """Plot the cumulative share of answers over the logarithm of time, with a dot at p99."""
    ahead, *others = weeks
    _plot_curve(axes, ahead.answers_without_llm, "this system, no LLM needed", _TODOIST_COLOURS[0])
    _plot_curve(axes, ahead.answers, "this system, all", _TODOIST_COLOURS[1])
    for week, colour in zip(others, _ON_DEMAND_COLOURS, strict=True):
        _plot_curve(axes, week.answers, week.name, colour)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds until the answer", fontsize=8)
    axes.set_title("Share of requests answered; dots: p99", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="lower center", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_curve(axes: Axes, answers: Sequence[TimedAnswer], name: str, colour: str) -> None:
    ms = np.sort([1000 * answer.seconds for answer in answers])
    axes.plot(ms, np.arange(1, len(ms) + 1) / len(ms), color=colour, label=name, drawstyle="steps-post")
    axes.plot(np.percentile(ms, 99), 0.99, "o", color=colour, markersize=5)
