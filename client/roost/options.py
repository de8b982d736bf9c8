"""Every knob of the client, with unit and reason."""

DEADLINE_S = 30.0  # of a call that sets no timeout
CONNECT_TIMEOUT_S = 5.0  # per address, until its hello has come
RECONNECT_S_MIN = 0.02  # first pause after a failed try; doubles, with jitter
RECONNECT_S_MAX = 1.0
STREAM_CREDIT = 64  # items of a stream on the way to a reader that is busy
SHARDS_NAMED = 10  # in an error
PAGE_OBJECTS = 500  # of the catalog, a request
