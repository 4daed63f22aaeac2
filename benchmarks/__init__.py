"""Measurements and endurance runs; outside the tests' fast tier."""
