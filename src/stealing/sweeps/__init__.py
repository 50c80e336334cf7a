"""States of runs and sweeps, as files that a running command writes and a report reads."""
