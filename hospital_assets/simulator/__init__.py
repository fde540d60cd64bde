"""A generated hospital network that lands files like a real one, with dirt and its ground truth.

Belongs here: the network, its people, flow and clinical content, the feeds it lands and the dirt
in them. Does not belong here: anything that reads those files; no asset imports this package.
Everything follows from the arguments: the same ones give the same bytes.
"""

from hospital_assets.simulator.run import SimulationSummary, feed_network, simulate

__all__ = ["SimulationSummary", "feed_network", "simulate"]
