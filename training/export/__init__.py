"""From checkpoints to bundles, and whether what was exported says what the network says."""
