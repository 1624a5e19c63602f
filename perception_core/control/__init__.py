"""Driving inside a safety envelope: speed limit, sight distance, path following, state machine and the
judge of commands.
"""
