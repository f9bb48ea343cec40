"""What is in a checkpoint: how weights are distributed, where their bits are, what could be saved, and why."""
