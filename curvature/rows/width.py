import jax

# On a processor a matrix of so many rows is one block: its program is short.
_ONE_BLOCK = 128
# In a larger one a block of so many rows is large enough for matrix products to run at full speed,
# and small enough for nearly half of the work to be saved by symmetry.
_ON_A_PROCESSOR = 64
# Anything else starts a kernel per operation and is idle in between: one block of 1,152 rows was
# three times as fast on an H100 as twelve.
_ELSEWHERE = 2048
# More blocks than this would make long programs, which take long to compile.
_MOST_BLOCKS = 24


def block_width(size: int) -> int:
    """How many rows of a symmetric matrix of `size` rows are worked on at a time."""
    if jax.default_backend() != "cpu":
        smallest = _ELSEWHERE
    else:
        smallest = _ONE_BLOCK if size <= _ONE_BLOCK else _ON_A_PROCESSOR
    return max(smallest, -(-size // _MOST_BLOCKS))
