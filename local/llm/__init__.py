"""A stand-in for an OpenAI-compatible LLM on loopback: it writes tips honestly, badly, or as a task title orders."""

from local.llm.behaviours import Behaviour, Saying
from local.llm.form import Candidate
from local.llm.stand_in import Call, LocalLLM, running

__all__ = ["Behaviour", "Call", "Candidate", "LocalLLM", "Saying", "running"]
