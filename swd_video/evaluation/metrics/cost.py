"""What a clip costs; its figures are not measured on clips but while they are made, see `evaluation.cost`."""

from swd_video.evaluation.metrics.metric import Metric


class TransformerSeconds(Metric):
    """Seconds of the networks that samples go through."""

    key = "transformer_seconds"
    title = "transformer, s a clip"
    better = "lower"
    digits = 3
    meaning = (
        "Seconds inside the transformer and on the way from grid to grid, a clip's share of a batch. Median; rows "
        "took turns in one process."
    )


class TotalSeconds(Metric):
    """Seconds of the whole call."""

    key = "total_seconds"
    title = "all, s a clip"
    better = "lower"
    digits = 3
    meaning = "Seconds of the whole call."


class TransformerTflops(Metric):
    """Operations of the networks that samples go through."""

    key = "transformer_tflops"
    title = "transformer, TFLOPs a clip"
    better = "lower"
    digits = 4
    meaning = (
        "Operations of the transformer and of the way from grid to grid in 10^12, counted while they ran; a "
        "multiplication and an addition count as two."
    )


COSTS = (TransformerSeconds, TotalSeconds, TransformerTflops)
