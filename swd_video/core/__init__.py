"""Tensors only: grids, schedules, flow matching, resizing and the reference sampling loop."""
