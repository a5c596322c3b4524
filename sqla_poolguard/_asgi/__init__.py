"""What stands between a pool and a web server: 503 answers, deadlines, probes and a debug page. It needs no framework."""
