"""Writes worlds as multi-task image data sets in AdaShare's layouts of NYUv2 and Taskonomy; see `dataset`."""
