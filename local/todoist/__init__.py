"""A stand-in for Todoist's API v1 on loopback, close enough to the API that the client needs no special case."""

from local.todoist.faults import Fault, FaultKind
from local.todoist.stand_in import LocalTodoist, TodoistCall, delivering, running_todoist
from local.todoist.webhooks import DeliveryFaults, RegisteredApp

__all__ = [
    "DeliveryFaults",
    "Fault",
    "FaultKind",
    "LocalTodoist",
    "RegisteredApp",
    "TodoistCall",
    "delivering",
    "running_todoist",
]
