"""Grams of carbon dioxide that one forward pass causes: a cost model in a package of its own.

``carbon = energy * intensity``, with the energy of Spartan Planner's own cost model and the
intensity of the electricity, in grams per kilowatt-hour, from the environment variable
``GRAMS_CO2_PER_KWH``, since it belongs to the place and not to the device.
"""

import math
import os

from cost_models import (
    CostModelError,
    DeviceProfile,
    LayerWorkload,
    Layout,
    LinearCost,
    Workload,
    cost_model,
)

JOULES_PER_KWH = 3.6e6
VARIABLE = "GRAMS_CO2_PER_KWH"


def grams_per_joule() -> float:
    """Return the intensity of the electricity.

    Raises:
        CostModelError: the environment does not tell it.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        intensity = float(text)
    except ValueError:
        intensity = math.nan
    if not 0 <= intensity < math.inf:
        raise CostModelError(
            f"the environment variable {VARIABLE} is {text!r}; set it to the grams of carbon "
            "dioxide per kilowatt-hour of your electricity, such as 400"
        )
    return intensity / JOULES_PER_KWH


class CarbonCost:
    """Carbon dioxide of arithmetic and of moving bytes."""

    name = "carbon"
    unit = "gCO2"
    needs_profile = True

    def dense_cost(self, layer: LayerWorkload, profile: DeviceProfile | None) -> float:
        """Grams of the layer left dense."""
        return grams_per_joule() * cost_model("energy").dense_cost(layer, profile)

    def linear_cost(
        self, layer: LayerWorkload, layout: Layout, profile: DeviceProfile | None
    ) -> LinearCost:
        """Grams as a linear function of the kept blocks; every figure scales alike."""
        energy = cost_model("energy").linear_cost(layer, layout, profile)
        scale = grams_per_joule()
        return LinearCost(
            dense=scale * energy.dense,
            fixed=scale * energy.fixed,
            per_block=scale * energy.per_block,
            unit=self.unit,
            source=energy.source,
        )

    def rest(self, workload: Workload, profile: DeviceProfile | None) -> float:
        """Grams that belong to no layer."""
        return grams_per_joule() * cost_model("energy").rest(workload, profile)
