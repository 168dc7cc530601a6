"""Scale-wise distillation of video diffusion models, in space and in time."""

__version__ = "0.1.0"
