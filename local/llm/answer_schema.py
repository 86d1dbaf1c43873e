"""The structure of an answer, read from the JSON schema of a request."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]

N_CANDIDATES = 5
"""Candidates in an answer if the schema allows that number."""
MAX_TITLE_CHARS = 60
MAX_BODY_CHARS = 200
_MAX_PARTS = 4
"""Texts of a body that is written around a task."""


@dataclass(frozen=True)
class NamedTask:
    """A task in a body, by its id in the prompt."""

    task: str


Body = str | tuple[str | NamedTask, ...]
"""The sentences of a tip: one text, or texts and tasks in order."""


@dataclass(frozen=True)
class Candidate:
    """One tip.

    theme: id of a theme of the context, or None.
    only_today: whether the text refers to the current day.
    """

    kind: str
    title: str
    body: Body
    task_ids: tuple[str, ...] = ()
    theme: str | None = None
    only_today: bool = True


@dataclass(frozen=True)
class AnswerSchema:
    """The structure of an answer with a list of candidates.

    key: of the list in the answer; None if the answer is the list itself.
    fields: schema of each field of a candidate; empty if any field is allowed.
    kinds: allowed kinds; empty if any kind is allowed.
    names_tasks: whether a body is a list in which tasks may stand between texts.
    min_candidates, max_candidates: allowed length of the list; a maximum of None means no limit.
    other_values: values of the answer's other keys.
    """

    key: str | None = "candidates"
    fields: Mapping[str, Schema] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    names_tasks: bool = False
    max_title_chars: int = MAX_TITLE_CHARS
    max_body_chars: int = MAX_BODY_CHARS
    min_candidates: int = 0
    max_candidates: int | None = None
    other_values: Mapping[str, Any] = field(default_factory=dict)

    def allowed_count(self, preferred: int) -> int:
        """The allowed number of candidates nearest to the preferred number."""
        limited = preferred if self.max_candidates is None else min(preferred, self.max_candidates)
        return max(self.min_candidates, limited)

    def body_around(self, text: str, task_ids: Sequence[str]) -> Body:
        """The whole of a text as a body: in parts that the schema allows, with a task inside if it may name one."""
        if not self.names_tasks:
            return text[: self.max_body_chars]
        parts: Sequence[str] = textwrap.wrap(text, self.max_body_chars)[:_MAX_PARTS]
        if len(parts) == 1 and " " in text:
            middle = text.index(" ", len(text) // 2) if " " in text[len(text) // 2 :] else text.rindex(" ")
            parts = [text[:middle], text[middle + 1 :]]
        return (*parts[:1], *(NamedTask(task_id) for task_id in task_ids[:1]), *parts[1:])

    def answer_with(self, candidates: Sequence[Candidate]) -> Any:
        """An answer with these candidates, as JSON data."""
        rows = [self._row(candidate) for candidate in candidates]
        return rows if self.key is None else {**self.other_values, self.key: rows}

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        values = {
            "kind": candidate.kind,
            "title": candidate.title,
            "body": self._body(candidate.body),
            "task_ids": list(candidate.task_ids),
            "tasks": list(candidate.task_ids),
            "theme": candidate.theme,
            "only_today": candidate.only_today,
        }
        if not self.fields:
            return {name: value for name, value in values.items() if name != "tasks"}
        return {name: _value(schema, values.get(name)) for name, schema in self.fields.items()}

    def _body(self, body: Body) -> Any:
        parts = (body,) if isinstance(body, str) else body
        if self.names_tasks or _is_list(self.fields.get("body", {})):
            return [part if isinstance(part, str) else {"task": part.task} for part in parts]
        return "".join(part for part in parts if isinstance(part, str))


def read_answer_schema(schema: Schema) -> AnswerSchema:
    """Read a JSON schema of a list of candidates, or of an object with such a list.

    Any other schema results in the default `AnswerSchema`.
    """
    top = _resolved(schema, schema)
    if _is_list_of_candidates(top, schema):
        return _answer_schema(None, top, schema, {})
    properties = {name: _resolved(value, schema) for name, value in top.get("properties", {}).items()}
    for name, value in properties.items():
        if _is_list_of_candidates(value, schema):
            other_values = {other: _value(properties[other], None) for other in properties if other != name}
            return _answer_schema(name, value, schema, other_values)
    return AnswerSchema()


def _answer_schema(key: str | None, array: Schema, root: Schema, other_values: Mapping[str, Any]) -> AnswerSchema:
    candidate = _resolved(array["items"], root)
    fields = {name: _resolved(value, root) for name, value in candidate["properties"].items()}
    body = fields.get("body", {})
    return AnswerSchema(
        key=key,
        fields=fields,
        kinds=_choices(fields.get("kind", {})),
        names_tasks=_is_list(body) and "task" in json.dumps(body["items"]),
        max_title_chars=min(MAX_TITLE_CHARS, _limit(fields.get("title", {}), "maxLength") or MAX_TITLE_CHARS),
        max_body_chars=min(MAX_BODY_CHARS, _limit(body, "maxLength") or _limit_of_texts(body) or MAX_BODY_CHARS),
        min_candidates=_limit(array, "minItems") or 0,
        max_candidates=_limit(array, "maxItems"),
        other_values=other_values,
    )


def _is_list_of_candidates(schema: Schema, root: Schema) -> bool:
    return "items" in schema and "title" in _resolved(schema["items"], root).get("properties", {})


def _is_list(schema: Schema) -> bool:
    return schema.get("type") == "array" and "items" in schema


def _limit_of_texts(schema: Schema) -> int | None:
    """The limit of each text in a list of parts."""
    parts = schema.get("items", {})
    limits = [_limit(part, "maxLength") for part in parts.get("anyOf", [parts]) if part.get("type") == "string"]
    return next((limit for limit in limits if limit), None)


def _resolved(schema: Schema, root: Schema) -> Schema:
    """The schema without references and alternatives.

    Of several alternatives, the first non-null one; "nullable" is true if one of them is null.
    """
    while "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**_at_pointer(schema["$ref"], root), **rest}
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            alternatives = [_resolved(alternative, root) for alternative in schema[keyword]]
            non_null = [alternative for alternative in alternatives if alternative.get("type") != "null"]
            rest = {key: value for key, value in schema.items() if key != keyword}
            return {**(non_null or alternatives)[0], **rest, "nullable": len(non_null) < len(alternatives)}
    return schema


def _at_pointer(pointer: str, root: Schema) -> Schema:
    """The part of the schema at a JSON pointer such as `#/$defs/Tip`."""
    part = root
    for key in pointer.split("/")[1:]:
        part = part[key.replace("~1", "/").replace("~0", "~")]
    return part


def _choices(schema: Schema) -> tuple[str, ...]:
    return tuple(schema.get("enum", [schema["const"]] if "const" in schema else []))


def _limit(schema: Schema, keyword: str) -> int | None:
    """A limit from its keyword, or from the description, as written by clients in OpenAI's strict mode."""
    if keyword in schema:
        return int(schema[keyword])
    match = re.search(rf"\b{keyword}=(\d+)", schema.get("description", ""))
    return int(match[1]) if match else None


def _value(schema: Schema, value: Any) -> Any:
    """The given value, or if it is None, the simplest value that the schema allows."""
    kind = schema.get("type")
    if value is not None:
        return value
    if "default" in schema:
        return schema["default"]
    if schema.get("nullable") or kind == "null" or (isinstance(kind, list) and "null" in kind):
        return None
    if choices := _choices(schema):
        return choices[0]
    return {"array": [], "object": {}, "boolean": False, "integer": 0, "number": 0}.get(str(kind), "")
