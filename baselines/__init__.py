"""Published mixed-precision methods and trivial ones: the name of each, and where it is found.

Listing names imports none of them. A new baseline is one file and one line here.
"""

BASELINES: dict[str, str] = {
    "uniform": "baselines.uniform:Uniform",
    "cheapest": "baselines.cheapest:Cheapest",
    "haq": "baselines.haq:HAQ",
}
