"""A stand-in for an OpenAI-compatible LLM: writes faithful, invalid or injected tips, or fails."""

from local.llm.answer_schema import Candidate
from local.llm.batches import BatchFault, LocalBatches
from local.llm.behaviours import AnswerFunction, Behaviour
from local.llm.stand_in import LLMCall, LocalLLM, running_llm

__all__ = [
    "AnswerFunction",
    "BatchFault",
    "Behaviour",
    "Candidate",
    "LLMCall",
    "LocalBatches",
    "LocalLLM",
    "running_llm",
]
