"""Durable objects for Python: named objects with durable state, each running in one place.

```python
import roost

class Counter(roost.DurableObject):
    count: int = 0

    async def increment(self, by: int = 1) -> int:
        self.count += by
        return self.count

async with roost.connect("localhost:7400") as cluster:
    print(await cluster.object(Counter, "page-42").increment())
```
"""

from roost import sync
from roost.adapters.channel import Tls
from roost.adapters.transport import NodeStatus, ObjectDetail, ObjectInfo
from roost.client import (
    Cluster,
    Committed,
    Expired,
    Running,
    Unknown,
    connect,
    new_request_id,
    outcome,
)
from roost.context import CallInfo, Context, DeactivationReason
from roost.errors import (
    ApplicationError,
    CallError,
    CorruptionError,
    DeadlineExceededError,
    DeadlockError,
    DiskFullError,
    ExpiredRequestError,
    FieldNotSetError,
    InvalidArgumentError,
    NotOwnerError,
    ObjectError,
    OutcomeUnknownError,
    OverloadedError,
    PermissionDeniedError,
    ReadOnlyError,
    RoostError,
    StaleCallError,
    StateMismatchError,
    StoreError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnknownClassError,
    UnknownMethodError,
)
from roost.local import local
from roost.object import DurableObject, method, migrate
from roost.storage import Storage
from roost.stub import options

__version__ = "0.1.0"

__all__ = [
    "ApplicationError",
    "CallError",
    "CallInfo",
    "Cluster",
    "Committed",
    "Context",
    "CorruptionError",
    "DeactivationReason",
    "DeadlineExceededError",
    "DeadlockError",
    "DiskFullError",
    "DurableObject",
    "Expired",
    "ExpiredRequestError",
    "FieldNotSetError",
    "InvalidArgumentError",
    "NodeStatus",
    "NotOwnerError",
    "ObjectDetail",
    "ObjectError",
    "ObjectInfo",
    "OutcomeUnknownError",
    "OverloadedError",
    "PermissionDeniedError",
    "ReadOnlyError",
    "RoostError",
    "Running",
    "StaleCallError",
    "StateMismatchError",
    "Storage",
    "StoreError",
    "Tls",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "Unknown",
    "UnknownClassError",
    "UnknownMethodError",
    "connect",
    "local",
    "method",
    "migrate",
    "new_request_id",
    "options",
    "outcome",
    "sync",
]
