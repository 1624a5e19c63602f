"""The backbones the TAG paper compares itself with (its Tab. 2), each with the same heads; own code."""
