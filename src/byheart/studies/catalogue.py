"""The studies, by name."""

from __future__ import annotations

from byheart.studies import (
    analytic,
    appendix,
    as_published,
    attractors,
    capacity,
    discrepancy,
    double_descent,
    features_held,
    finetune,
    forget,
    generalisation_scale,
    middle_regime,
    mnist,
    phase_map,
    polygons,
    repeats,
    staircase,
    text_double_descent,
    text_memorization,
    two_views,
    variants,
    wrong_labels,
)

STUDIES = {
    study.name: study
    for study in (
        double_descent.STUDY,
        double_descent.STUDY_AVERAGED,
        double_descent.STUDY_M4,
        phase_map.STUDY,
        phase_map.STUDY_AVERAGED,
        appendix.WEIGHT_DECAY,
        appendix.TRAINING_LENGTH,
        generalisation_scale.STUDY,
        features_held.STUDY,
        repeats.STUDY,
        polygons.STUDY,
        middle_regime.STUDY,
        discrepancy.STUDY,
        as_published.STUDY,
        capacity.STUDY,
        variants.STUDY,
        two_views.STUDY,
        attractors.STUDY,
        analytic.STUDY,
        mnist.STUDY,
        wrong_labels.STUDY,
        text_memorization.STUDY,
        text_double_descent.STUDY,
        staircase.STUDY,
        finetune.STUDY,
        forget.STUDY,
    )
}
