"""Decoders: the outputs of task heads as ROS messages, one task kind a file, found by the name a bundle
gives.
"""
