"""What decides: plain values in, plain values out; no clock, no network, no disk, no tasks."""
