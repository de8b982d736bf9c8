"""Clusters on paper, to plan for."""
