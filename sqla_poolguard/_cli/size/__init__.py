"""The command `poolguard size`: reads or asks what a pool depends on, and shows how large it should be."""
