"""A benchmark that cannot flatter: byheart beside PyTorch and JAX, on the same data and weights, in one run.

A step is loss, gradient and AdamW on the full batch. Every contender must first agree with the reference kernel; none
that does not is timed. Beside the times stand the machine's own ceilings, measured in the same run.
"""

from benchmarks.bar import bar as bar
from benchmarks.config import BenchConfig as BenchConfig
from benchmarks.measure import benchmark as benchmark
from benchmarks.processes import ChildError as ChildError
from benchmarks.results import Results as Results
from benchmarks.table import page as page
from benchmarks.table import put_in_readme as put_in_readme
from benchmarks.table import summary as summary
