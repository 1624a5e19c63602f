"""Writes worlds as a nuScenes v1.0 data set that nuscenes-devkit reads unchanged; see `dataset`."""
