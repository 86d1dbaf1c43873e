"""The pods of embedding tasks under Airflow's KubernetesExecutor, which ignores queues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from contexts.settings import Settings, SettingsError

_NAME = "EMBEDDING_EXECUTOR_CONFIG"
_KEY = "pod_override"
_CONTAINER = "base"
"""The name of the container that runs a task; others are sidecars."""


def embedding_executor_config(settings: Settings) -> dict[str, Any]:
    """Return the executor config of a task that embeds, with a pod of Kubernetes' client; empty if it is not set.

    Raises SettingsError if the setting has any other key than `pod_override`, if the pod has unknown fields or wrong
    values, or if its first container is not the one that runs the task.
    """
    given = settings.embedding_executor_config
    if not given:
        return {}
    if given.keys() != {_KEY} or not isinstance(given[_KEY], dict):
        raise SettingsError(
            f'{_NAME}: write an object with one key, {{"{_KEY}": {{"spec": ...}}}}; found {sorted(given)}'
        )
    return {_KEY: _pod(given[_KEY])}


def _pod(document: dict[str, Any]) -> Any:
    try:
        from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
        from kubernetes.client import ApiClient
    except ImportError as error:
        raise SettingsError(f"{_NAME} needs apache-airflow-providers-cncf-kubernetes: {error}") from None
    try:
        pod = PodGenerator.deserialize_model_dict(document)
    except (ValueError, TypeError, AttributeError) as error:  # the client's own: of a missing or a wrong value
        raise SettingsError(f"{_NAME}: {_KEY} is no pod: {error}") from None
    if unknown := list(_unknown_fields(document, ApiClient().sanitize_for_serialization(pod), _KEY)):
        raise SettingsError(
            f"{_NAME}: a pod has no {', '.join(unknown)}. Fields are written as in YAML: nodeSelector"
        )
    containers = pod.spec.containers if pod.spec else None
    if containers and containers[0].name != _CONTAINER:
        raise SettingsError(
            f"{_NAME}: the first container is named '{containers[0].name}', but '{_CONTAINER}' runs the task"
        )
    return pod


def _unknown_fields(given: Any, known: Any, path: str) -> Iterator[str]:
    """Yield the paths of fields that the client left out when it read the document."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            if isinstance(known, Mapping) and name in known:
                yield from _unknown_fields(value, known[name], f"{path}.{name}")
            elif value not in (None, {}, []):
                yield f"{path}.{name}"
    elif isinstance(given, list) and isinstance(known, list):
        for number, (each, kept) in enumerate(zip(given, known, strict=False)):
            yield from _unknown_fields(each, kept, f"{path}[{number}]")
