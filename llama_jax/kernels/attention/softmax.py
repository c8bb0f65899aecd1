"""Numbers of the online softmax that all kernels share."""

# A hidden score. The running maximum starts far above it, so exp(HIDDEN - maximum) is exactly 0
# even in a row that sees no key at all, and no row divides 0 by 0.
HIDDEN = -1e30
LOWEST_MAXIMUM = -1e20

# exp(x) = 2^(x log2(e)): hardware has the power of two.
LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
