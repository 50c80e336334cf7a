"""Pre-training: unlabelled images to an encoder."""
