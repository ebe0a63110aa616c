"""The loop of a worker process, ask, run, report, tell, and the kinds of objective it runs."""
