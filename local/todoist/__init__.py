"""A stand-in for Todoist's API v1 on loopback, faithful enough that the client needs no special case."""

from local.todoist.faults import Fault, FaultKind
from local.todoist.stand_in import Call, LocalTodoist, running

__all__ = ["Call", "Fault", "FaultKind", "LocalTodoist", "running"]
