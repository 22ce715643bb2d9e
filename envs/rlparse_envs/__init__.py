"""The parsing game as Gymnasium environments."""
