"""What all metrics have in common, and one from outside of the package."""

import numpy as np
import pytest
from pydantic import ValidationError

from swd_video.config import dump_config
from swd_video.core.interval import Estimate
from swd_video.evaluation.config import EvaluateConfig
from swd_video.evaluation.judges import Batch
from swd_video.evaluation.metrics import METRICS, all_metrics, default_margins
from swd_video.evaluation.metrics.metric import Beside, MeanOfClips, Metric, Scores


class Brightness(MeanOfClips):
    """A metric from outside: this module is no part of the package."""

    key = "brightness"
    title = "brightness"
    margin = 2.0
    meaning = "Mean grey level, 0 to 255."
    network = "somebody/bright-net"

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        return {self.key: batch.frames.mean(axis=(1, 2, 3, 4))}


class Twin(Brightness):
    key = "flow"


OUTSIDE = f"{__name__}:Brightness"


def config_with(**keys: object) -> EvaluateConfig:
    rows = [{"kind": "teacher", "key": "t", "model": "pocket-wan"}]
    return EvaluateConfig.model_validate({"prompts": ["a"], "rows": rows, "reference": "t", **keys})


def test_every_metric_says_what_it_is() -> None:
    names = [metric.key for metric in all_metrics({"colour": ("red", "green")})]
    assert len(set(names)) == len(names) == len(METRICS) + 1 and names[0] == "adherence_colour"
    for metric in all_metrics({"colour": ("red", "green")}):
        assert metric.title and metric.meaning and metric.heading.startswith(metric.title)
        words = dict.fromkeys(("reference", "distances_to", "spread_of", "encoder", "frame_encoder"), "it")
        assert "{" not in metric.meaning.format(**words)


def test_margins_are_the_metrics_own_unless_a_config_says_otherwise() -> None:
    assert config_with().margins == default_margins()
    assert config_with(margins={"flow": 0.03}).margins == default_margins() | {"flow": 0.03}
    with pytest.raises(ValidationError, match="no such margin; known are adherence"):
        config_with(margins={"frechet": 1.0})


def test_a_metric_from_outside_has_a_margin_and_the_saved_config_names_it() -> None:
    config = config_with(metrics={"others": [OUTSIDE]}, margins={"brightness": 3.0})
    assert config.margins["brightness"] == 3.0 and OUTSIDE in dump_config(config)
    scores = Scores(("a", "b"), {"brightness": np.array([10.0, 20.0])})
    figures = all_metrics(others=[OUTSIDE])[-1].summarise(scores, Beside(scores))
    assert isinstance(figures["brightness"], Estimate) and figures["brightness"].value == 15.0
    for other, message in (
        (f"{__name__}:Twin", "there is a metric of key 'flow' already"),
        ("json:JSONDecoder", "is no metric; expected module:Class, derived from Metric"),
        ("nothing", "is no metric"),
        ("no_such_module:Metric", "No module named 'no_such_module'"),
    ):
        with pytest.raises(ValidationError, match=message):
            config_with(metrics={"others": [other]})
    assert issubclass(Brightness, Metric)
