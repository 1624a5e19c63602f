"""FULLER's network as something the trainer can train: its losses, its data, how it is judged."""
