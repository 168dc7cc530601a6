"""Distillation. Read `build`, `loop`, `step`, `objectives`, in this order."""
