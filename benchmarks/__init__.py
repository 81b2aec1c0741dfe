"""A benchmark that cannot flatter: byheart beside PyTorch and JAX, on the same data and weights, in one run.

A step is loss, gradient and AdamW on the full batch. Every contender must first agree with the reference kernel; none
that does not is timed. Beside the times stand the machine's own ceilings, measured in the same run. From the root of
the repository: ``python -m benchmarks``, and on a GPU ``python -m benchmarks.gpu``.
"""
