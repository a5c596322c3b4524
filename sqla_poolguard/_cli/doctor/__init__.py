"""`poolguard doctor`: gathers evidence about an engine and its server, and applies rules to it. Gathering judges nothing."""
