"""Keyed draws: the same for the same key, unrelated otherwise."""

from collections import Counter

import torch

from swd_video.core.randomness import SampleDraws, keyed_choice, keyed_generator, keyed_global, keyed_seed


def test_a_key_gives_one_seed_for_ever() -> None:
    # Another number here would change what a run of an earlier version resumes to.
    assert keyed_seed(0, "noise", 3, 1) == 7491294907676062191


def test_draws_do_not_depend_on_what_was_drawn_before() -> None:
    first = torch.randn(4, generator=keyed_generator(0, "noise", 5))
    torch.randn(100, generator=keyed_generator(0, "noise", 6))
    assert torch.equal(first, torch.randn(4, generator=keyed_generator(0, "noise", 5)))


def test_keys_are_not_confused() -> None:
    keys = [(0, "noise", 1, 11), (0, "noise", 11, 1), (0, "stage", 1, 11), (1, "noise", 1, 11)]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)


def test_choices_follow_their_weights() -> None:
    counts = Counter(keyed_choice((1.0, 3.0), 7, step) for step in range(4000))
    assert 0.72 < counts[1] / 4000 < 0.78
    assert {keyed_choice((1.0,), step) for step in range(50)} == {0}


def test_what_a_sample_gets_does_not_depend_on_its_neighbours() -> None:
    clips = torch.empty(6, 2, 3)
    whole = SampleDraws(range(6), 0, "noise", 4)
    noise, share, shared = whole.normal_like(clips), whole.uniform(), torch.randn(3, generator=whole.shared)
    assert len(noise.unique()) == noise.numel() and len(share.unique()) == 6
    for piece in (range(0, 2), range(2, 6)):
        draws = SampleDraws(piece, 0, "noise", 4)
        where = slice(piece.start, piece.stop)
        assert torch.equal(draws.normal_like(clips[where]), noise[where])
        assert torch.equal(draws.uniform(), share[where])
        assert torch.equal(torch.randn(3, generator=draws.shared), shared)
    assert not torch.equal(SampleDraws(range(6), 0, "noise", 5).normal_like(clips), noise)


def test_torch_s_own_generator_is_keyed_in_a_block_and_goes_on_behind_it() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    for _ in range(2):
        with keyed_global(0, "critic"):
            assert torch.equal(torch.randn(2), torch.randn(2, generator=keyed_generator(0, "critic")))
    assert torch.equal(torch.randn(4), expected)
