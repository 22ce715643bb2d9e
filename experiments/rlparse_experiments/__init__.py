"""What we run: command line, presets, training, comparison and reports."""
