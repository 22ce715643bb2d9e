"""``rlparse bench``: how fast the parts run on this machine, side by side in one process."""
