"""Published mixed-precision methods and trivial ones: the name of each, and where it is found.

Listing names imports none of them. A new baseline is one file and one line here.
"""

BASELINES: dict[str, str] = {
    "uniform": "baselines.uniform:Uniform",
    "cheapest": "baselines.cheapest:Cheapest",
    "haq": "baselines.haq:HAQ",
    "hawq-v1": "baselines.hawq:HAWQ1",
    "hawq-v2": "baselines.hawq:HAWQ2",
    "hawq-v3": "baselines.hawq:HAWQ3",
    "limpq": "baselines.limpq:LIMPQ",
    "sensitivity-greedy": "baselines.sensitivity:SensitivityGreedy",
    "sensitivity-ilp": "baselines.sensitivity:SensitivityILP",
    "certified-ilp": "baselines.sensitivity:CertifiedILP",
}

SENSITIVITY = ("hawq-v1", "hawq-v2", "hawq-v3", "limpq", "sensitivity-greedy", "sensitivity-ilp", "certified-ilp")
"""Methods that predict the loss of every policy from probes, and propose the best."""
