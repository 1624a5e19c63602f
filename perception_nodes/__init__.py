"""The on-vehicle side: rclpy nodes, transport, process runtime and report. Never imports `training`."""
