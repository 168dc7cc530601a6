"""What diffusers' own transformer is called with."""

import pytest
import torch


@pytest.fixture
def stock_inputs() -> dict[str, torch.Tensor]:
    """What diffusers' own transformer of the tiny pipeline is called with."""
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(1, 4, 3, 4, 4, generator=generator),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 48, 16, generator=generator),
    }
