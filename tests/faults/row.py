"""One row of the matrix: a fault, its place, the promise, and the trial that breaks the pipeline and checks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faults.trial import Trial


class PromiseBroken(Exception):
    """A promise did not hold; the message says what was found instead."""


@dataclass(frozen=True)
class Row:
    """A fault, and the promise that is kept in spite of it.

    n_trials: of the whole matrix. n_quick: of the small part in `make test`, 0 to leave the row out.
    """

    fault: str
    place: str
    promise: str
    run: Callable[[Trial], None]
    n_trials: int = 1
    n_quick: int = 0


def require(condition: object, finding: str) -> None:
    """Raise PromiseBroken with the finding unless the condition holds."""
    if not condition:
        raise PromiseBroken(finding)
