"""Interventions, other decisions instead of the routers' own: one file each, all in the table `INTERVENTIONS`.

    Mute       some experts may not be chosen (or add nothing if they were)
    Force      some experts are chosen for every token
    Bias       some experts are chosen more readily, or less
    TopK       another number of experts per token
    Swap       two experts get each other's tokens
    AtToken    one token gets other experts at one layer
    Replay     the routing of another trace
    Precision  the model in another precision

To choose again, moeviz must know how a router decides: that is so where its kernels can run it, and it is checked on
the model itself. Other routers can still be muted without choosing again, swapped and replayed.

If a router limits a token to the experts of its best groups (DeepSeek-V2 and V3, and their kin), a new choice obeys
that limit. A muted expert adds nothing to the score of its group. The group of a forced expert is kept, as one
of the groups that a token may have.

A file has the class, with `check`, `change` and `check_held`, and `OPTION`, by which the command line asks for it. None
of them imports torch: the command line reads the table before it knows what it is asked for.
"""

from moeviz.capture.interventions import at_token, bias, force, mute, precision, replay, swap, top_k
from moeviz.capture.interventions.intervention import Option

INTERVENTIONS: tuple[Option, ...] = tuple(
    module.OPTION for module in (mute, force, bias, top_k, swap, at_token, precision, replay)
)
