"""Losses: pure functions from predictions or features to a scalar. They never call a network."""
