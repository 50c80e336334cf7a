"""Reports: result.json and its table."""
