"""What a clip costs, as tables show it; `evaluation.cost` measures it, rows taking turns."""

from swd_video.evaluation.metrics.metric import Metric


class TransformerSeconds(Metric):
    """Of one clip."""

    key = "transformer_seconds"
    title = "transformer, s a clip"
    meaning = (
        "Seconds inside the transformer and on the way from grid to grid, a clip's share of a batch. Median; rows took "
        "turns in one process."
    )
    better = "lower"
    digits = 3


class TotalSeconds(Metric):
    """Of one clip."""

    key = "total_seconds"
    title = "all, s a clip"
    meaning = "Seconds of the whole call."
    better = "lower"
    digits = 3


class TransformerTflops(Metric):
    """Of one clip."""

    key = "transformer_tflops"
    title = "transformer, TFLOPs a clip"
    meaning = (
        "Operations of the transformer and of the way from grid to grid in 10^12, counted while they ran; a "
        "multiplication and an addition count as two."
    )
    better = "lower"
    digits = 4
