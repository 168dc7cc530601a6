"""The order of clips: whole groups of one caption, every clip at most once an epoch."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from swd_video.core.randomness import keyed_generator
from swd_video.training.clip_order import ClipOrder


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 4), st.integers(0, 5))
def test_an_epoch_cuts_each_captions_clips_into_groups(captions: list[int], size: int, seed: int) -> None:
    order = ClipOrder(captions, size, seed)
    expected = {caption: count // size for caption, count in Counter(captions).items()}
    assert order.num_groups == sum(expected.values())
    assert order.num_captions_skipped == sum(count == 0 for count in expected.values())
    for epoch in range(2):
        groups = [order.group(epoch * order.num_groups + i) for i in range(order.num_groups)]
        clips = [clip for group in groups for clip in group]
        assert all(len(group) == size for group in groups)
        assert len(set(clips)) == len(clips)
        assert all(len({captions[clip] for clip in group}) == 1 for group in groups)
        assert Counter(captions[group[0]] for group in groups) == Counter(expected)


def test_groups_of_one_come_in_the_order_that_runs_without_groups_always_had() -> None:
    order = ClipOrder(["a", "b"] * 25, 1, seed=3)
    for epoch in range(3):
        expected = torch.randperm(50, generator=keyed_generator(3, "order", epoch)).tolist()
        assert [order.group(epoch * 50 + i) for i in range(50)] == [(clip,) for clip in expected]


def test_epochs_and_seeds_group_and_order_anew() -> None:
    captions = [clip // 8 for clip in range(40)]
    order, other = ClipOrder(captions, 4, seed=3), ClipOrder(captions, 4, seed=4)
    first, second = ([order.group(epoch * 10 + i) for i in range(10)] for epoch in range(2))
    assert {frozenset(group) for group in first} != {frozenset(group) for group in second}
    assert first != [other.group(i) for i in range(10)]
    assert first == [ClipOrder(captions, 4, seed=3).group(i) for i in range(10)]
