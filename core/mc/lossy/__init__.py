"""Smaller with a stated error: arrays to small integers and side information, and back, exactly as FORMAT.md says."""
