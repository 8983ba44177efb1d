"""Measurements against yardsticks nobody here wrote; each prints figure, size, baseline and bound."""
