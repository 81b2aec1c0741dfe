"""A benchmark that cannot flatter: byheart beside PyTorch and JAX, on the same data and weights, in one run.

A step is loss, gradient and AdamW on the full batch. Every contender must first agree with the reference kernel; none
that does not is timed. Beside the times stand the machine's own ceilings, measured in the same run.
"""

from byheart.benchmark.bar import bar as bar
from byheart.benchmark.config import BenchConfig as BenchConfig
from byheart.benchmark.measure import benchmark as benchmark
from byheart.benchmark.processes import ChildError as ChildError
from byheart.benchmark.results import Results as Results
from byheart.benchmark.table import page as page
from byheart.benchmark.table import put_in_readme as put_in_readme
from byheart.benchmark.table import summary as summary
