"""The frame of the command: settings, output, signals, exit codes, progress."""
