"""One row of the matrix: a fault, its place, the promise, and the trial that breaks the system and checks it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faults.trial import Bench, Trial


class PromiseBroken(Exception):
    """A promise did not hold; the message says what was found instead."""


def pipeline_trial(bench: Bench, number: int, chance: Random) -> AbstractContextManager[Trial]:
    """Open a trial of the pipeline."""
    return bench.stage.trial(number, chance)


@dataclass(frozen=True)
class Row:
    """A fault, and the promise that is kept in spite of it.

    run: breaks the trial and checks the promise; returns the measured figures, if there are any.
    n_trials: of the whole matrix. n_quick: of the small part in `make test`, 0 to leave the row out.
    open: opens the trial: of the pipeline, or of the service, see `faults.service`.
    """

    fault: str
    place: str
    promise: str
    run: Callable[[Any], str | None]
    n_trials: int = 1
    n_quick: int = 0
    open: Callable[[Bench, int, Random], AbstractContextManager[Any]] = pipeline_trial


def require(condition: object, finding: str) -> None:
    """Raise PromiseBroken with the finding unless the condition holds."""
    if not condition:
        raise PromiseBroken(finding)
