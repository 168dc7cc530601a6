import torch

from swd_video.losses.reconstruction import feature_loss, reconstruction_loss


def test_a_constant_shift_costs_its_size_and_a_pattern_more() -> None:
    pixels = torch.zeros(1, 3, 4, 4, 4)
    assert torch.isclose(reconstruction_loss(pixels + 0.1, pixels), torch.tensor(0.1))
    stripes = torch.tensor([0.1, -0.1, 0.1, -0.1])
    # Differences of 0.2 along one axis, of weight 0.5.
    assert torch.isclose(reconstruction_loss(pixels + stripes, pixels), torch.tensor(0.1 + 0.5 * 0.2))
    assert torch.isclose(reconstruction_loss(pixels + stripes, pixels, differences=0), torch.tensor(0.1))


def test_a_single_frame_has_no_differences_in_time() -> None:
    pixels = torch.zeros(1, 3, 1, 4, 4)
    assert torch.isclose(reconstruction_loss(pixels + 0.1, pixels), torch.tensor(0.1))


def test_features_count_whatever_their_scale() -> None:
    features = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(feature_loss(3 * features + 1, features), torch.tensor(0.0), rtol=0, atol=1e-5)
    assert feature_loss(features.flip(1), features) > 0.5
