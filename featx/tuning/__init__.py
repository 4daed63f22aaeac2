"""The layers above a map, trained from cached maps."""
