"""Measurements of the stack, run by `mmmt bench NAME`; part of the source tree only."""
