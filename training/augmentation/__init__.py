"""Augmentation of samples: whatever moves a pixel or a point moves calibration and labels with it."""
