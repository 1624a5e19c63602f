"""Trains monocular networks: TAG and its baselines."""
