"""Data sets: loaders that all give the same typed sample, collation and mixing."""
