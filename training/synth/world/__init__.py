"""Procedural worlds: vector map, traffic, weather, sensors, all out of one seed; see `world.make_world`."""
