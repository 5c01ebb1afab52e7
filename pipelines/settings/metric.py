"""The metric by which models are compared and selected: the setting ``evaluate.metric``."""

from enum import StrEnum


class Metric(StrEnum):
    """What trials, finalists, models and promotion are compared by; higher is better, in [0, 1].

    Balanced accuracy is the mean over the classes of the share of right answers among the images of the class. Macro-F1
    is the mean over the classes of the harmonic mean of precision and recall. Both leave out classes without images.
    """

    ACCURACY = "accuracy"
    BALANCED_ACCURACY = "balanced_accuracy"
    MACRO_F1 = "macro_f1"

    @property
    def label(self) -> str:
        """Its name in text."""
        return "macro-F1" if self == Metric.MACRO_F1 else self.replace("_", " ")

    @property
    def on_validation(self) -> str:
        """Its name among the metrics of an epoch."""
        return f"validation_{self}"
