"""What all tests share: properties are searched for counterexamples however long that takes, for a machine may be busy."""

from hypothesis import HealthCheck, settings

settings.register_profile("mmalign", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mmalign")
