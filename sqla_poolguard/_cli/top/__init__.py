"""`poolguard top`: a live view of the pools of running processes."""
