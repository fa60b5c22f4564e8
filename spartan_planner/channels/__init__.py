"""Blocks that span tensors: channels and attention heads of torch models.

Found from one forward pass (:func:`channel_groups`), valued (:func:`unit_values`), masked
(:func:`mask_channels`), removed (:func:`remove_channels`), saved and loaded.
"""

from spartan_planner.channels.groups import (
    ChannelFindings,
    LeftOut,
    channel_groups,
    find_channels,
)
from spartan_planner.channels.neutral import mask_channels
from spartan_planner.channels.removal import remove_channels
from spartan_planner.channels.saved import load_pruned, save_pruned
from spartan_planner.channels.values import unit_values

__all__ = [
    "ChannelFindings",
    "LeftOut",
    "channel_groups",
    "find_channels",
    "load_pruned",
    "mask_channels",
    "remove_channels",
    "save_pruned",
    "unit_values",
]
