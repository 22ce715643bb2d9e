"""Agents that play the parsing game."""
