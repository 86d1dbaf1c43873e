"""The dashboard and the alert rules in `docs/`: they ask only for what the service shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from service import Service, ServiceHarness

from serving.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FROM_PROMETHEUS = {"up": {"job", "instance"}}
LABELS_OF_PROMETHEUS = {"job", "instance", "le"}
WORDS = {"by", "and", "or", "unless", "on", "without", "ignoring"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "grafana" / "dashboard.json").read_text())
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DOCS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for rule in alerts():
        yield rule["expr"]


def metrics_in(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The metrics of an expression with the labels that it names, and the value of a label after `=`, else empty."""
    grouped = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(",")}
    rest = re.sub(r"\bby \([^)]*\)", "", expression)
    rest = re.sub(r"\[[^]]*\]| offset \w+", "", rest)
    for name, called, matchers in re.findall(r"([a-zA-Z_:][\w:]*)(\s*\()?(\{[^}]*\})?", rest):
        if called or name in WORDS:
            continue
        labels = re.findall(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"', matchers)
        found = {label: value if operator == "=" else "" for label, operator, value in labels}
        yield name, found | dict.fromkeys(grouped - set(found), "")


def shown() -> dict[str, set[str]]:
    """The labels of all names under which the service shows samples."""
    collectors: dict[str, Any] = Metrics().registry._names_to_collectors
    return FROM_PROMETHEUS | {name: set(collector._labelnames) for name, collector in collectors.items()}


@pytest.mark.parametrize("expression", list(expressions()))
def test_metrics_exist(expression: str) -> None:
    """Each metric of the dashboard and of the rules exists, with the labels that are asked for."""
    found = list(metrics_in(expression))
    assert found
    for name, matchers in found:
        assert name in shown(), f"{name} does not exist"
        assert set(matchers) <= shown()[name] | LABELS_OF_PROMETHEUS, f"{name} has other labels"


def test_each_metric_is_on_the_dashboard() -> None:
    """Each metric of the service is in at least one panel."""
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    used = {name for expression in panels for name, _ in metrics_in(expression)}
    families = {family.name for family in Metrics().registry.collect()}
    assert {name for name in families if not any(each.startswith(name) for each in used)} == set()


def test_values_of_labels(harness: ServiceHarness, account: Any) -> None:
    """Each value of a label that is asked for is one that the service shows, or a reason of docs/operations.md."""
    harness.add_with_context("ann", account("water the plants", "call bob"))
    service: Service = harness.open(database_connections=2)
    service.tip()
    service.request("POST", "/v1/users/ann/tip", headers={"Authorization": "Bearer wrong"})
    harness.connection.execute("UPDATE context_store SET materialized_at = materialized_at - INTERVAL '7 hours'")
    service.tip()
    with harness.without_database():
        service.request("POST", "/v1/users/ann/tip")
    page = service.request("GET", "/metrics").text
    seen = {
        (label, value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        for label, value in sample.labels.items()
    }
    documented = set(re.findall(r"`(\w+)`|^\| (\d{3}) \|", (DOCS / "operations.md").read_text(), re.MULTILINE))
    asked = {
        (label, value)
        for expression in expressions()
        for _, matchers in metrics_in(expression)
        for label, value in matchers.items()
        if value and label != "job"
    }
    assert {(label, value) for label, value in asked - seen if value not in set().union(*documented)} == set()


def test_reasons_are_documented() -> None:
    """docs/operations.md lists each reason that the code gives to a response or to the end of a connection."""
    code = "".join(path.read_text() for path in (ROOT / "serving").glob("*.py"))
    reasons = set(re.findall(r'\breason="(\w+)"|(?:cut|on_refusal)\((?:0, )?"(\w+)"', code))
    page = (DOCS / "operations.md").read_text()
    assert len(reasons) > 15
    assert [name for pair in sorted(reasons) for name in pair if name and f"`{name}`" not in page] == []


def test_alerts_are_complete() -> None:
    """Each rule has a name of its own, a severity, a summary, and a runbook of at least one sentence."""
    rules = alerts()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook"].endswith(".")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('sum by (status) (rate(a_total{job="$job", x!="y"}[5m])) / max(b) > 0.5', [("a_total", "x"), ("b", None)]),
        ('histogram_quantile(0.9, sum by (le) (rate(c_bucket{d="e"}[$__rate_interval])))', [("c_bucket", "d")]),
    ],
)
def test_expressions_are_understood(expression: str, expected: list[tuple[str, str | None]]) -> None:
    """The metrics of an expression are found between functions, labels and durations."""
    found = list(metrics_in(expression))
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert all(label is None or label in matchers for (_, matchers), (_, label) in zip(found, expected, strict=True))
