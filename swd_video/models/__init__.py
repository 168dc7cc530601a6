"""One interface over families of text-to-video models, and thin adapters to it."""
