"""The files and batches of the stand-in for an LLM. Source: OpenAI's API reference, "Files" and "Batch"."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from threading import RLock
from typing import Any

from local.faulty_http import Reply, json_reply
from local.llm.completions import error_reply

_WINDOW = timedelta(hours=24)
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class BatchFault(StrEnum):
    """The way in which batches go wrong."""

    NONE = "none"
    FAILING = "failing"
    """Every second request ends in the error file."""
    EXPIRING = "expiring"
    """Only every second request is answered before the batch expires after a day."""
    UNCREATED = "uncreated"
    """A call to create a batch is dropped."""
    UNANSWERED = "unanswered"
    """A batch is created, but the connection is dropped before the answer."""
    DOWN = "down"
    """Every call gets 503."""
    UNDELETED = "undeleted"
    """A call to delete a file gets 503."""


@dataclass(frozen=True)
class LocalFile:
    """A stored file, with the fields that its upload gave it."""

    id: str
    filename: str
    purpose: str
    created_at: int
    content: bytes

    def to_json(self) -> Mapping[str, Any]:
        """The file object of the API."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class LocalBatches:
    """Files and batches; all methods are thread-safe.

    fault, seconds: may be set while it is served. seconds: by the injected clock, from the creation of a batch to its
    results. draw_seconds: draws them for each new batch instead. A batch that needs more than a day expires, with
    every second request answered. files, batches: all that exist, by id.
    """

    def __init__(self, respond: Callable[[bytes], Reply], clock: Callable[[], datetime]) -> None:
        """respond: answers one request of a batch."""
        self.fault = BatchFault.NONE
        self.seconds = 0.0
        self.draw_seconds: Callable[[], float] | None = None
        self.files: dict[str, LocalFile] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._respond = respond
        self._clock = clock
        self._n_ids = 0
        self._drawn_seconds: dict[str, float] = {}
        self._lock = RLock()

    def add_file(self, filename: str, purpose: str, content: bytes) -> Reply:
        """Answer an upload."""
        with self._lock:
            return self._down() or json_reply(self._store(filename, purpose, content).to_json())

    def list_files(self, purpose: str | None) -> Reply:
        """List the files, the newest first."""
        with self._lock:
            found = [file.to_json() for file in self.files.values() if purpose in (None, file.purpose)]
            return self._down() or _page(found)

    def file(self, file_id: str) -> Reply:
        """Answer a question for a file's metadata."""
        with self._lock:
            file = self.files.get(file_id)
            return self._down() or (json_reply(file.to_json()) if file else _missing("file", file_id))

    def content(self, file_id: str) -> Reply:
        """Answer a download."""
        with self._lock:
            file = self.files.get(file_id)
            return self._down() or (
                Reply(200, file.content, "application/octet-stream") if file else _missing("file", file_id)
            )

    def delete_file(self, file_id: str) -> Reply:
        """Delete a file."""
        with self._lock:
            if reply := self._down(BatchFault.UNDELETED):
                return reply
            if self.files.pop(file_id, None) is None:
                return _missing("file", file_id)
            return json_reply({"id": file_id, "object": "file", "deleted": True})

    def create(self, body: Mapping[str, Any]) -> Reply:
        """Create a batch from an uploaded file."""
        with self._lock:
            if reply := self._down():
                return reply
            if self.fault is BatchFault.UNCREATED:
                return Reply(0, b"", disconnect="before_headers")
            if body.get("input_file_id") not in self.files:
                return error_reply(400, f"No such File object: {body.get('input_file_id')}")
            batch = self._created(body)
            if self.fault is BatchFault.UNANSWERED:
                return Reply(0, b"", disconnect="before_headers")
            return json_reply(batch)

    def batch(self, batch_id: str) -> Reply:
        """Return a batch, whose results are there once its time has passed."""
        with self._lock:
            if batch_id not in self.batches:
                return self._down() or _missing("batch", batch_id)
            return self._down() or json_reply(self._current(batch_id))

    def list_batches(self) -> Reply:
        """List the batches, the newest first."""
        with self._lock:
            return self._down() or _page([self._current(batch_id) for batch_id in self.batches])

    def cancel(self, batch_id: str) -> Reply:
        """Cancel a batch: it is cancelled when it is asked for the next time."""
        with self._lock:
            if batch_id not in self.batches:
                return self._down() or _missing("batch", batch_id)
            batch = self._current(batch_id)
            if batch["status"] not in _ENDED:
                batch["status"] = "cancelling"
            return self._down() or json_reply(batch)

    def _down(self, fault: BatchFault = BatchFault.DOWN) -> Reply | None:
        is_down = self.fault in (BatchFault.DOWN, fault)
        return error_reply(503, "The server is overloaded.", kind="server_error") if is_down else None

    def _store(self, filename: str, purpose: str, content: bytes) -> LocalFile:
        file = LocalFile(self._id("file"), filename, purpose, self._now(), content)
        self.files[file.id] = file
        return file

    def _created(self, body: Mapping[str, Any]) -> dict[str, Any]:
        now = self._now()
        batch: dict[str, Any] = {
            "id": self._id("batch"),
            "object": "batch",
            "endpoint": body["endpoint"],
            "errors": None,
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + int(_WINDOW.total_seconds()),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": body.get("metadata"),
        }
        self.batches[batch["id"]] = batch
        if self.draw_seconds is not None:
            self._drawn_seconds[batch["id"]] = self.draw_seconds()
        return batch

    def _current(self, batch_id: str) -> dict[str, Any]:
        """The batch as of now."""
        batch, age_s = self.batches[batch_id], self._now() - self.batches[batch_id]["created_at"]
        seconds = self._drawn_seconds.get(batch_id, self.seconds)
        if batch["status"] == "cancelling":
            batch["status"] = "cancelled"
        elif batch["status"] == "in_progress" and (
            self.fault is BatchFault.EXPIRING or seconds > _WINDOW.total_seconds()
        ):
            if self._now() >= batch["expires_at"]:
                self._end(batch, "expired")
        elif batch["status"] == "in_progress" and age_s >= seconds:
            self._end(batch, "completed")
        return batch

    def _end(self, batch: dict[str, Any], status: str) -> None:
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].content.splitlines()]
        results = [self._result(line, n, status) for n, line in enumerate(lines)]
        answered = [result for result in results if _is_answered(result)]
        failed = [result for result in results if not _is_answered(result)]
        batch["status"] = status
        batch["request_counts"] = {"total": len(lines), "completed": len(answered), "failed": len(failed)}
        for kind, each in (("output", answered), ("error", failed)):
            if each:
                content = b"\n".join(json.dumps(result).encode() for result in each)
                batch[f"{kind}_file_id"] = self._store(f"{batch['id']}_{kind}.jsonl", "batch_output", content).id

    def _result(self, line: Mapping[str, Any], n: int, status: str) -> Mapping[str, Any]:
        result = {"id": f"batch_req_{n}", "custom_id": line["custom_id"], "response": None, "error": None}
        if status == "expired" and n % 2:
            message = "This request could not be executed before the completion window expired."
            return {**result, "error": {"code": "batch_expired", "message": message}}
        if self.fault is BatchFault.FAILING and n % 2:
            reply = error_reply(500, "The server had an error while processing your request.", kind="server_error")
        else:
            reply = self._respond(json.dumps(line["body"]).encode())
        body = {"status_code": reply.status or 500, "request_id": f"req_{n}", "body": json.loads(reply.body or b"{}")}
        return {**result, "response": body}

    def _id(self, kind: str) -> str:
        self._n_ids += 1
        return f"{kind}_{self._n_ids:024x}"

    def _now(self) -> int:
        return int(self._clock().timestamp())


def _is_answered(result: Mapping[str, Any]) -> bool:
    return result["response"] is not None and result["response"]["status_code"] == 200


def _missing(kind: str, id: str) -> Reply:
    return error_reply(404, f"No such {kind}: {id}")


def _page(items: Sequence[Mapping[str, Any]]) -> Reply:
    """A page with all items, the newest first."""
    newest_first = list(reversed(items))
    ends = {"first_id": newest_first[0]["id"], "last_id": newest_first[-1]["id"]} if newest_first else {}
    return json_reply({"object": "list", "data": newest_first, "has_more": False, **ends})
