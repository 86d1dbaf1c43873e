"""The formats of stored rows: each is read in one place, as a valid value or as an Unreadable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from contexts.assembly.model import TaskGroups, UserContext
from contexts.assembly.store import StoredContext
from serving.metrics import Metrics
from tips.bandit import REWARDS, Posterior
from tips.estimators import LoggedDecision
from tips.features import N_FEATURES, N_STATIC, FeatureMatrix, check_size, read_features

log = logging.getLogger(__name__)

_MAX_TIPS = 20
"""Number of tips in a set at most: twice as many as the service stores, and few enough to choose from at once."""

_MAX_REWARD = 10.0
_SUM_TOLERANCE = 1e-3


class Unreadable(Exception):
    """A stored row is broken, or has the format of another version. The message contains no text of the row."""

    def __init__(self, table: str, row_id: object, reason: str) -> None:
        super().__init__(f"{table}, {row_id}: {reason}")
        self.table = table


Report = Callable[[Unreadable], None]


def counted_in(metrics: Metrics) -> Report:
    """A report of unreadable rows: logs each by its id, and counts it by its table."""

    def report(error: Unreadable) -> None:
        log.warning("unreadable row of %s", error)
        metrics.unreadable_rows.labels(error.table).inc()

    return report


def read_stored_context(stored: StoredContext) -> UserContext:
    """The context in a row of `context_store`; raises Unreadable."""
    if sha256(stored.context_json.encode()).hexdigest() != stored.context_hash:
        raise Unreadable("context_store", stored.user_id, "its context_hash does not match its text")
    try:
        return UserContext.model_validate_json(stored.context_json)
    except ValidationError as error:
        # An error's location can contain a name from the row, and its message a value.
        kinds = ", ".join(sorted({each["type"] for each in error.errors(include_input=False, include_context=False)}))
        raise Unreadable("context_store", stored.user_id, f"no context of this version ({kinds})") from None


def read_groups(user_id: str, groups_json: str) -> TaskGroups:
    """The task groups in a row of `context_store`; raises Unreadable."""
    try:
        return TaskGroups.from_json(groups_json)
    except ValueError:
        raise Unreadable("context_store", user_id, "its groups_json holds no task groups") from None


def check_candidates(
    set_id: object,
    tips: Sequence[str],
    kinds: Sequence[str],
    themes: Sequence[str],
    features: bytes,
    *,
    are_features_possible: bool = False,
) -> None:
    """Raise Unreadable unless the columns of a row of `candidate_sets` are of the same tips.

    The tips themselves are not parsed: see `tips.served`. are_features_possible: known already, from a check of many
    rows at once, which costs as much as one of a single row.
    """
    if not 0 < len(tips) == len(kinds) == len(themes) <= _MAX_TIPS:
        sizes = f"{len(tips)} tips, {len(kinds)} kinds, {len(themes)} themes"
        raise Unreadable("candidate_sets", set_id, f"{sizes}: expected 1 to {_MAX_TIPS}, and as many of each")
    check = check_size if are_features_possible else read_features
    try:
        check(features, len(tips), N_STATIC)
    except ValueError as error:
        raise Unreadable("candidate_sets", set_id, str(error)) from None


def read_posterior(policy: str, row: Mapping[str, Any]) -> Posterior:
    """The posterior in a row of `policies`; raises Unreadable."""
    try:
        if row["n_features"] != N_FEATURES:
            raise ValueError(f"a posterior of {row['n_features']} features, expected {N_FEATURES}")
        return Posterior.from_bytes(N_FEATURES, row["precision"], row["weighted"], row["n_updates"])
    except ValueError as error:
        raise Unreadable("policies", policy, str(error)) from None


def read_candidates_shown(row: Mapping[str, Any], n_features: int) -> FeatureMatrix:
    """The features of all candidates of a row of `decisions`, shape (K, n_features); raises Unreadable."""
    n, chosen = row["n_candidates"], row["chosen"]
    try:
        if not 0 <= chosen < n:
            raise ValueError(f"chosen={chosen}, of {n} candidates")
        return read_features(row["features"] or b"", n, n_features)
    except ValueError as error:
        raise Unreadable("decisions", row["decision_id"], str(error)) from None


def read_chosen(row: Mapping[str, Any]) -> NDArray[np.float64]:
    """The features of the candidate that a row of `decisions` shows as chosen, shape (d,); raises Unreadable."""
    return np.asarray(read_candidates_shown(row, N_FEATURES)[row["chosen"]], np.float64)


def read_logged_decision(row: Mapping[str, Any]) -> LoggedDecision:
    """The decision in a row of `decisions`, with the reward of its reaction; raises Unreadable."""
    propensities = np.array(row["propensities"], np.float32)
    n_features = len(row["features"]) // (4 * len(propensities))
    features = read_candidates_shown(row, n_features)
    is_distribution = (propensities > 0).all() and abs(propensities.sum() - 1) < _SUM_TOLERANCE
    if not (n_features and is_distribution):
        raise Unreadable("decisions", row["decision_id"], "its propensities are no probabilities above 0")
    return LoggedDecision(row["user_id"], features, propensities, row["chosen"], read_reward(row))


def read_reward(row: Mapping[str, Any]) -> float:
    """The reward in a row of `reactions`, or the usual one of the reaction if the stored one is none."""
    reward = row["reward"]
    return float(reward) if reward is not None and abs(reward) <= _MAX_REWARD else REWARDS[row["reaction"]]
