"""Checkers and simulated parts for tests."""
