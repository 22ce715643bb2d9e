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
    ClippedLogLikelihoodReward,
    GoldF1Reward,
    LogLikelihoodReward,
    MarginReward,
    Reward,
    SurprisalReward,
)
from rlparse_envs.shift_reduce import ShiftReduceEnv

SHIFT_REDUCE_ID = "rlparse/ShiftReduce-v0"

SHIFT_REDUCE_FEATURES_ID = "rlparse/ShiftReduceFeatures-v0"
"""The same with ``observation="features"``, for tools that know environments by their names alone."""

for _id, _observation in ((SHIFT_REDUCE_ID, "symbolic"), (SHIFT_REDUCE_FEATURES_ID, "features")):
    if _id not in gymnasium.registry:
        gymnasium.register(
            _id,
            entry_point="rlparse_envs.shift_reduce:ShiftReduceEnv",
            vector_entry_point="rlparse_envs.batched:ShiftReduceVectorEnv",
            kwargs={"observation": _observation},
        )

__all__ = [
    "SHIFT_REDUCE_ID",
    "SHIFT_REDUCE_FEATURES_ID",
    "ShiftReduceEnv",
    "ShiftReduceVectorEnv",
    "Reward",
    "AccuracyReward",
    "LogLikelihoodReward",
    "SurprisalReward",
    "MarginReward",
    "GoldF1Reward",
    "BranchingF1Reward",
    "ClippedLogLikelihoodReward",
    "SymbolicObserver",
    "FeatureObserver",
]
