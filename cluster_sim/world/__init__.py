"""The simulated world: clock, events, facility physics, weather, tariff, network, failures. It knows no policy."""
