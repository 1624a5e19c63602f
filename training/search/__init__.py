"""Search of architectures: what to share between tasks (AutoMTL) and which layers to share (EDNAS)."""
