"""What sensor_fusion is made of; nothing in here needs rclpy."""
