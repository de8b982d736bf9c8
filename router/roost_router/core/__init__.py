"""Decisions without I/O: where calls go, what is sent again, what is refused."""
