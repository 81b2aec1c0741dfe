"""What does a trained network fall into when it is fed its own answers: examples, features, or something else?

One notion for both kinds of feature, the last open question of Henighan et al. 2023: what is an attractor of the
network's own iteration (see ``byheart.attractors``). Expectations are of two kinds. Those of the question: examples at
small T, features at large T, neither where test loss peaks. And those derived for ideal solutions, which contradict a
part of them: the iteration restores the norm of an answer, so it prefers several neighbours at once wherever they are
not silenced by their bias. On a regular T-gon of radius R, an example is an attractor if R exceeds the least radius;
the middle of two neighbours is one too, from T = 8 on at any R. On a pentagon of features without bias the features
are unstable (multiplier 1.52), and the five middles of neighbours are attractors (multiplier 0.53).
"""

from __future__ import annotations

from byheart.studies.attractors.claims import CLAIMS
from byheart.studies.attractors.figures import figures
from byheart.studies.attractors.runs import groups, tables
from byheart.studies.study import Study

STUDY = Study(
    "attractors",
    "What does a network fall into when it is fed its own answers: examples, features, or something else?",
    groups,
    tables,
    CLAIMS,
    figures,
)
