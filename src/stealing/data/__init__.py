"""Images: sources, the decoded cache, batches that resume exactly, and views."""
