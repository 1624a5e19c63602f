"""Rigs from recordings: what a bag holds, what can be guessed of it, how that is written. No rclpy."""
