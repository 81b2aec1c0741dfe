"""The questions of the paper, one file each; ``STUDIES`` lists those of the toy model by name."""

from byheart.studies import (
    analytic,
    discrepancy,
    double_descent,
    generalisation_scale,
    middle_regime,
    phase_map,
    polygons,
    repeats,
    training_length,
    two_views,
    variants,
    weight_decay,
)
from byheart.studies.mnist import QUESTION as MNIST_QUESTION
from byheart.studies.mnist import reproduce_mnist
from byheart.studies.readme import write_summary
from byheart.studies.study import Claim, Finding, Scale, Study, judge, reproduce, write_results

STUDIES = {
    study.name: study
    for study in (
        double_descent.STUDY,
        double_descent.STUDY_AVERAGED,
        double_descent.STUDY_M4,
        phase_map.STUDY,
        weight_decay.STUDY,
        training_length.STUDY,
        generalisation_scale.STUDY,
        repeats.STUDY,
        polygons.STUDY,
        middle_regime.STUDY,
        discrepancy.STUDY,
        variants.STUDY,
        two_views.STUDY,
        analytic.STUDY,
    )
}

__all__ = [
    "MNIST_QUESTION",
    "STUDIES",
    "Claim",
    "Finding",
    "Scale",
    "Study",
    "judge",
    "reproduce",
    "reproduce_mnist",
    "write_results",
    "write_summary",
]
