"""Candidates in batches of OpenAI's Batch API: submitted at half price, collected hours later by any process."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import openai
from pydantic import TypeAdapter
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UnexpectedModelBehavior, UserError
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.batch import Batch, BatchRequest, BatchResult, EncodedBatchRequest
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from tips.batch_handles import BatchedRequest, BatchError, BatchHandle, BatchLost
from tips.bounded_http import AnswerRefused
from tips.generator import Generation, LLMGenerator
from tips.models import LLMError, OutputMode, without_retries

_MAX_ANSWER_BYTES = 64 * 2**20
"""The maximum size of a file of a batch: 64 KiB for each request."""

_ENDPOINT: Final = "/v1/responses"
_BATCH_ID = "tips_batch_id"
"""The key of our id in the metadata of a batch."""

_CLOCK_SLACK = timedelta(hours=1)
"""The maximum difference between the provider's clock and ours."""

_TIMEOUT_S = 60.0
"""The time without a byte after which a call about a batch is given up."""

_DECODE_TIMEOUT_S = 30.0
_HANDLES = TypeAdapter(Batch)


class CandidateBatches:
    """Batches of requests for candidates.

    A prompt in a batch has the bytes of one that is sent at once, and its answer is checked in the same way. An
    answer is never repaired: its good candidates are taken.
    """

    def __init__(self, model: str | Model, *, mark_secret: bytes | None = None, output: OutputMode = "auto") -> None:
        """Raises LLMError if there is no such model, its key is not set, or it has no batches. See `LLMGenerator`."""
        found = without_retries(model, _MAX_ANSWER_BYTES)
        if not isinstance(found, OpenAIResponsesModel) or found.batch_max_requests is None:
            raise LLMError(
                f"LLM_MODEL={found.system}:{found.model_name}: TIPS_AHEAD=batch needs OpenAI's Batch API. Write"
                " LLM_MODEL=openai:NAME, or TIPS_AHEAD=flex or now."
            )
        self._model, self._client = found, found.client
        self._client.timeout = _TIMEOUT_S
        self._mark_secret, self._output = mark_secret or secrets.token_bytes(32), output

    async def submit(self, batch_id: UUID, requests: Sequence[BatchedRequest]) -> BatchHandle:
        """Submit one batch that carries our `batch_id`, so that `find` finds it.

        A request that cannot be written is left out. Raises BatchError or BatchLost; the batch may have been created
        all the same.
        """
        encoded = [each for request in requests if (each := await self._encoded(request))]
        if not encoded:
            raise BatchError("no request could be written")
        with _provider_errors():
            lines = "\n".join(map(_input_line, encoded)).encode()
            file = await self._client.files.create(file=(_file_name(batch_id), lines), purpose="batch")
            created = await self._client.batches.create(
                input_file_id=file.id,
                endpoint=_ENDPOINT,
                completion_window="24h",
                metadata={_BATCH_ID: str(batch_id)},
            )
            return self._handle(created, encoded[0].group, len(encoded))

    async def find(self, batch_id: UUID, since: datetime) -> BatchHandle | None:
        """Return the batch that carries our `batch_id` and was created after `since`; None if there is none.

        The uploaded requests of a batch that was never created are deleted. Raises BatchError.
        """
        first_at = (since - _CLOCK_SLACK).timestamp()
        with _provider_errors():
            async for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(_BATCH_ID) == str(batch_id):
                    return self._handle(batch, await self._group(), 0)
                if batch.created_at < first_at:  # the newest are listed first
                    break
            async for file in self._client.files.list(purpose="batch", limit=100):
                if file.filename == _file_name(batch_id):
                    await self._client.files.delete(file.id)
                if file.created_at < first_at:
                    break
        return None

    async def refresh(self, handle: BatchHandle) -> BatchHandle:
        """Return the present state of a batch. Raises BatchError, and BatchLost if the provider has it no more."""
        with _provider_errors():
            return _dumped(await self._model.batch_status(_loaded(handle)))

    async def cancel(self, handle: BatchHandle) -> BatchHandle:
        """Ask the provider to cancel a batch; return its state. Raises as `refresh`."""
        with _provider_errors():
            return _dumped(await self._model.batch_cancel(_loaded(handle)))

    async def results(
        self, handle: BatchHandle, requests: Sequence[BatchedRequest]
    ) -> Mapping[str, Generation | None]:
        """Return the outcome of each request of an ended batch by its custom_id; None: the LLM was not asked.

        Results of other requests are dropped unread. Raises as `refresh`.
        """
        with _provider_errors():
            found = {result.custom_id: result for result in await self._model.batch_results(_loaded(handle))}
        return {request.custom_id: await self._read(found.get(request.custom_id), request) for request in requests}

    async def delete_files(self, handle: BatchHandle) -> None:
        """Delete the input and the results of an ended batch at the provider. Raises BatchError."""
        details = handle.get("provider_details") or {}
        for kind in ("input", "output", "error"):
            if file_id := details.get(f"{kind}_file_id"):
                with _provider_errors(), suppress(openai.NotFoundError):
                    await self._client.files.delete(file_id)

    async def _group(self) -> str:
        """Return the group of a batch, which must be that of the client that collects it."""
        messages: list[ModelMessage] = [ModelRequest.user_text_prompt("-")]
        return (await self._model.batch_encode(BatchRequest(custom_id="-", messages=messages))).group

    async def _encoded(self, request: BatchedRequest) -> EncodedBatchRequest | None:
        """Return the request that the generator would send; None if it cannot be written."""
        recorder = _Recorder(self._model, request.custom_id)
        await self._generator(recorder).generate(request.context, request.today, timeout_s=_DECODE_TIMEOUT_S)
        return recorder.encoded

    async def _read(self, result: BatchResult | None, request: BatchedRequest) -> Generation | None:
        """Return the outcome that the generator would have if the provider had given this answer at once."""
        if result is None or result.status in ("expired", "canceled"):
            return None
        answered = _Answered(self._model, result)
        return await self._generator(answered).generate(request.context, request.today, timeout_s=_DECODE_TIMEOUT_S)

    def _generator(self, model: Model) -> LLMGenerator:
        """Return a generator of one call: a broken answer must not open the circuit for the others."""
        return LLMGenerator(model, timeout_s=_DECODE_TIMEOUT_S, mark_secret=self._mark_secret, output=self._output)

    def _handle(self, created: Any, group: str, n_requests: int) -> BatchHandle:
        return _dumped(
            Batch(
                id=created.id,
                model_name=self._model.model_name,
                provider_name=self._model.system,
                group=group,
                status="in_progress",
                created_at=datetime.fromtimestamp(created.created_at, UTC),
                request_count=n_requests,
                provider_details={"status": created.status, "input_file_id": created.input_file_id},
            )
        )


class _Recorded(UnexpectedModelBehavior):
    """A request was recorded instead of sent."""


class _Recorder(WrapperModel):
    """A model that records its first request for a batch instead of sending it."""

    def __init__(self, model: Model, custom_id: str) -> None:
        super().__init__(model)
        self.custom_id = custom_id
        self.encoded: EncodedBatchRequest | None = None

    async def request(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> ModelResponse:
        request = BatchRequest(
            custom_id=self.custom_id,
            messages=messages,
            model_settings=settings,
            model_request_parameters=parameters,
        )
        self.encoded = await self.wrapped.batch_encode(request)
        raise _Recorded("recorded")


class _Answered(WrapperModel):
    """A model that gives the answer of a batch once; it has no second answer for a repair."""

    def __init__(self, model: Model, result: BatchResult) -> None:
        super().__init__(model)
        self.result: BatchResult | None = result

    async def request(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> ModelResponse:
        if self.result is None:
            raise UnexpectedModelBehavior("a batch has no repairs")
        result, self.result = self.result, None
        request = BatchRequest(
            custom_id=result.custom_id,
            messages=messages,
            model_settings=settings,
            model_request_parameters=parameters,
        )
        return self.wrapped.batch_decode(result, request)


@contextmanager
def _provider_errors() -> Iterator[None]:
    """Turn the errors of a provider's client into BatchError or BatchLost, without any text of the provider."""
    try:
        yield
    except (openai.APIError, ModelAPIError, UserError) as error:
        status = getattr(error, "status_code", "")
        if isinstance(error, ModelHTTPError) and status == 404:
            raise BatchLost("the provider has no such batch") from None
        raise BatchError(f"{type(error).__name__} {status}".strip()) from None
    except AnswerRefused as error:
        raise BatchLost(str(error)) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BatchLost(f"its answer cannot be read, {type(error).__name__}") from None


def _input_line(request: EncodedBatchRequest) -> str:
    """A line of a batch's input file. Source: OpenAI's API reference, "The request input object"."""
    custom_id = TypeAdapter(str).dump_json(request.custom_id).decode()
    return f'{{"custom_id":{custom_id},"method":"POST","url":"{_ENDPOINT}","body":{request.body}}}'


def _file_name(batch_id: UUID) -> str:
    return f"tips-{batch_id}.jsonl"


def _dumped(batch: Batch) -> BatchHandle:
    handle: BatchHandle = _HANDLES.dump_python(batch, mode="json")
    return handle


def _loaded(handle: BatchHandle) -> Batch:
    return _HANDLES.validate_python(dict(handle))
