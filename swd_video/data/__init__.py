"""Clips on disk: reading and writing video, manifests, and caches of latents."""
