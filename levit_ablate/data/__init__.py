"""Datasets, the data stream, augmentation."""
