"""Settings of all commands: types and ranges, and checks of command lines and configurations."""
