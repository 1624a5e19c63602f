"""Rigs from recordings: what a bag holds, what can be guessed of it, and how that is written down. Needs no rclpy."""
