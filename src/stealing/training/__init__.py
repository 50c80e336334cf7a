"""Training with Lightning: fits that resume exactly, on one process or several."""
