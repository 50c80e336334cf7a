"""Images: sources, the cache of decoded images, batches that resume exactly, and views."""
