"""Sampling pipelines in the diffusers form, and loading distilled students into them."""
