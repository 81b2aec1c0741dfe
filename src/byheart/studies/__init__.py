"""The questions of the paper, one file each; ``STUDIES`` lists them by name."""

from byheart.studies import double_descent
from byheart.studies.study import Claim, Finding, Scale, Study, judge, reproduce, write_results

STUDIES = {study.name: study for study in (double_descent.STUDY,)}

__all__ = ["STUDIES", "Claim", "Finding", "Scale", "Study", "judge", "reproduce", "write_results"]
