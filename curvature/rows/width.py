import jax

# On a CPU a matrix of at most this many rows is one block, so that its program is short.
_ONE_BLOCK = 128
# The rows of a block of a larger matrix on a CPU. Such a block is large enough for matrix products
# to run at full speed, and small enough to save nearly half of the work by symmetry.
_ON_A_PROCESSOR = 64
# Other devices start a kernel per operation and are idle in between. On an H100 one block of 1,152
# rows was three times as fast as twelve blocks.
_ELSEWHERE = 2048
# The most blocks. A program for more blocks is long and takes long to compile.
_MOST_BLOCKS = 24


def block_width(size: int) -> int:
    """How many rows of a symmetric matrix of `size` rows are worked on at a time."""
    if jax.default_backend() != "cpu":
        smallest = _ELSEWHERE
    else:
        smallest = _ONE_BLOCK if size <= _ONE_BLOCK else _ON_A_PROCESSOR
    return max(smallest, -(-size // _MOST_BLOCKS))
