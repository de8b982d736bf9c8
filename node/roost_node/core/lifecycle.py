"""The states of an activation."""

import enum


class ActivationState(enum.Enum):
    """Where the live instance of an object stands."""

    LOADING = "loading"  # migration and `on_activate` run; calls wait
    ACTIVE = "active"  # calls run
    LEAVING = "leaving"  # `on_deactivate` runs; calls wait for the next activation
    GONE = "gone"  # nothing of it may have an effect any more
