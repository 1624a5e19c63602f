"""Writes worlds as a Cityscapes-3D data set that cityscapesscripts judges unchanged; see `dataset`."""
