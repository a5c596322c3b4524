"""What makes tests fail on leaks, and what users' own tests need. `sqla_poolguard.testing` and the pytest plugin are its doors."""
