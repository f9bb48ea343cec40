"""Which transform for which tensor, under a budget, and why: least loss + alpha x rate over all tensors at once."""
