"""The questions of the paper, one file each, and the leaderboard of scores; ``catalogue`` has the studies by name.

Nothing is imported here that draws or trains, so that naming a study costs nothing.
"""

from byheart.studies.readme import write_summary as write_summary
from byheart.studies.study import FigureFormat as FigureFormat
from byheart.studies.study import Scale as Scale
from byheart.studies.study import Study as Study
from byheart.studies.study import remake as remake
from byheart.studies.study import reproduce as reproduce
