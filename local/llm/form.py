"""The form of an answer, read from the JSON schema of a request: where candidates stand and what they may be."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Schema = Mapping[str, Any]

N_CANDIDATES = 5
MAX_TITLE = 60
MAX_BODY = 200


@dataclass(frozen=True)
class Candidate:
    """One tip. theme: id of a theme of the context, or None; only_today: it speaks of the day it is written on."""

    kind: str
    title: str
    body: str
    task_ids: tuple[str, ...] = ()
    theme: str | None = None
    only_today: bool = True


@dataclass(frozen=True)
class Form:
    """An object with candidates under `key`, or with no key a list; without a schema all is allowed.

    kinds: those allowed, none for any. title, body: characters at most. others: what else the object holds.
    """

    key: str | None = "candidates"
    fields: Mapping[str, Schema] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    title: int = MAX_TITLE
    body: int = MAX_BODY
    at_least: int = 0
    at_most: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def count(self, wanted: int) -> int:
        """The number of candidates nearest to `wanted` that is allowed."""
        return max(self.at_least, wanted if self.at_most is None else min(wanted, self.at_most))

    def filled(self, candidates: Sequence[Candidate]) -> Any:
        """The answer that holds these candidates."""
        rows = [self._row(candidate) for candidate in candidates]
        return rows if self.key is None else {**self.others, self.key: rows}

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        ours = {**asdict(candidate), "task_ids": list(candidate.task_ids)}
        if not self.fields:
            return ours
        return {name: _value(schema, ours.get(name)) for name, schema in self.fields.items()}


def form_of(schema: Schema) -> Form:
    """The form of what `schema` describes: a list of candidates, or an object one of whose keys holds it."""
    top = _resolved(schema, schema)
    if _is_list_of_candidates(top, schema):
        return _form(None, top, schema, {})
    properties = {name: _resolved(each, schema) for name, each in top.get("properties", {}).items()}
    for name, each in properties.items():
        if _is_list_of_candidates(each, schema):
            others = {other: _value(properties[other], None) for other in properties if other != name}
            return _form(name, each, schema, others)
    return Form()


def _form(key: str | None, listed: Schema, root: Schema, others: Mapping[str, Any]) -> Form:
    candidate = _resolved(listed["items"], root)
    fields = {name: _resolved(each, root) for name, each in candidate["properties"].items()}
    return Form(
        key=key,
        fields=fields,
        kinds=_choices(fields.get("kind", {})),
        title=min(MAX_TITLE, _limit(fields.get("title", {}), "maxLength") or MAX_TITLE),
        body=min(MAX_BODY, _limit(fields.get("body", {}), "maxLength") or MAX_BODY),
        at_least=_limit(listed, "minItems") or 0,
        at_most=_limit(listed, "maxItems"),
        others=others,
    )


def _is_list_of_candidates(schema: Schema, root: Schema) -> bool:
    return "items" in schema and "title" in _resolved(schema["items"], root).get("properties", {})


def _resolved(schema: Schema, root: Schema) -> Schema:
    """What `schema` refers to; of alternatives the first that is not null, marked as nullable if one was."""
    while "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**_pointed(schema["$ref"], root), **rest}
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            several = [_resolved(each, root) for each in schema[word]]
            others = [each for each in several if each.get("type") != "null"]
            rest = {key: value for key, value in schema.items() if key != word}
            return {**(others or several)[0], **rest, "nullable": len(others) < len(several)}
    return schema


def _pointed(pointer: str, root: Schema) -> Schema:
    found = root
    for part in pointer.split("/")[1:]:
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def _choices(schema: Schema) -> tuple[str, ...]:
    return tuple(schema.get("enum", [schema["const"]] if "const" in schema else []))


def _limit(schema: Schema, word: str) -> int | None:
    """A bound in its own key, or in the description, where clients write it that ask for OpenAI's strict mode."""
    if word in schema:
        return int(schema[word])
    written = re.search(rf"\b{word}=(\d+)", schema.get("description", ""))
    return int(written[1]) if written else None


def _value(schema: Schema, ours: Any) -> Any:
    """Ours where there is one; else the least that the schema allows."""
    kind = schema.get("type")
    if ours is not None:
        return ours
    if "default" in schema:
        return schema["default"]
    if schema.get("nullable") or kind == "null" or (isinstance(kind, list) and "null" in kind):
        return None
    if choices := _choices(schema):
        return choices[0]
    return {"array": [], "object": {}, "boolean": False, "integer": 0, "number": 0}.get(str(kind), "")
