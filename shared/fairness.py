"""How accounts share the workers: the numbers of the lanes' virtual time.

A claim takes from the account with the least virtual time and moves it on by the account's stride:
`STRIDE` divided by its tier's weight, so twice the weight gets twice the claims. An idle account
starts `CLAIMS_AHEAD` of its own claims before its lane's clock. Example: the clock is at 50,000; an
account of weight 2 moves 500 a claim and enters at 46,000.

The Redis functions get these numbers from here (`shared/redis/functions/lanes.lua`).
"""

from typing import Final

# Virtual time is counted in whole numbers: this must be divisible by the weights in use.
STRIDE: Final = 1_000
CLAIMS_AHEAD: Final = 8
# Of the generations that an account may run at once, the share that batches may take; one at least.
BATCH_SHARE: Final = 0.75
