import numpy as np
import pytest

from swd_video.core.interval import bootstrap_share
from swd_video.evaluation.metrics.adherence import Adherence
from swd_video.evaluation.metrics.metric import Beside, Scores

SUBJECT = Adherence("subject", ("sun", "blue heart", "heart"))
PLACE = Adherence("place", ("at sunset", "under a blue sky"))


def test_captions_name_classes_by_whole_words_and_the_longest() -> None:
    captions = ["a blue heart at sunset", "a heart under a blue sky", "A Sun at sunset"]
    np.testing.assert_array_equal(SUBJECT.classes_of(captions), [1, 2, 0])
    np.testing.assert_array_equal(PLACE.classes_of(captions), [0, 1, 0])


@pytest.mark.parametrize("caption", ["a sunflower at sunset", "a sun and a heart at sunset", "a sun"])
def test_captions_that_do_not_say_are_refused(caption: str) -> None:
    with pytest.raises(ValueError, match=r"metrics\.judge: prompt"):
        for metric in (SUBJECT, PLACE):
            metric.check([caption])


def test_shares_count_hits_over_prompts() -> None:
    names = ("cat", "dog", "cow", "pig")
    metric = Adherence("animal", names)
    captions = tuple(np.repeat([f"a {name}" for name in names], 25).tolist())
    scores = Scores(captions, {"read_animal": np.repeat([0, 1, 2, 0], 25)})
    by_prompt = metric.summarise(scores, Beside(scores))["adherence_animal"]
    by_clip = bootstrap_share((np.arange(100) < 75).astype(np.int64))
    assert by_prompt.value == by_clip.value == 0.75 and by_prompt.groups == 4
    assert by_prompt.high - by_prompt.low > 2 * (by_clip.high - by_clip.low)
