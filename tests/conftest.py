"""What all tests share: the settings of hypothesis."""

from hypothesis import HealthCheck, settings

# The same examples in every run, and no limit on their time: the machine may be busy.
settings.register_profile(
    "bitcert", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bitcert")
