"""Frozen CNN features, cached in HDF5, and classical heads trained on them in seconds."""
