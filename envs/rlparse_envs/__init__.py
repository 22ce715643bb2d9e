"""The parsing game as Gymnasium environments; importing this registers them.

gymnasium.make("rlparse_envs:rlparse/ShiftReduce-v0")
gymnasium.make_vec("rlparse_envs:rlparse/ShiftReduce-v0", num_envs=4096)
"""

import gymnasium

from rlparse_envs.batched import ShiftReduceVectorEnv
from rlparse_envs.observations import FeatureObserver, SymbolicObserver
from rlparse_envs.rewards import (
    AccuracyReward,
    BranchingF1Reward,
    GoldF1Reward,
    LogLikelihoodReward,
    MarginReward,
    Reward,
    SurprisalReward,
)
from rlparse_envs.shift_reduce import ShiftReduceEnv

SHIFT_REDUCE_ID = "rlparse/ShiftReduce-v0"

if SHIFT_REDUCE_ID not in gymnasium.registry:
    gymnasium.register(
        SHIFT_REDUCE_ID,
        entry_point="rlparse_envs.shift_reduce:ShiftReduceEnv",
        vector_entry_point="rlparse_envs.batched:ShiftReduceVectorEnv",
    )

__all__ = [
    "SHIFT_REDUCE_ID",
    "ShiftReduceEnv",
    "ShiftReduceVectorEnv",
    "Reward",
    "AccuracyReward",
    "LogLikelihoodReward",
    "SurprisalReward",
    "MarginReward",
    "GoldF1Reward",
    "BranchingF1Reward",
    "SymbolicObserver",
    "FeatureObserver",
]
