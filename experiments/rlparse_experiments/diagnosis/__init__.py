"""How an agent learns to parse: what it gets right and wrong, what it decides, and whether its encoder still learns."""
