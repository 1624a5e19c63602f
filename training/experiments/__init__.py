"""FULLER's experiments, each a list of training runs that one command does and compares."""
