"""Overload in virtual time: what is demanded of the pool, and what it and the stock pool do."""
