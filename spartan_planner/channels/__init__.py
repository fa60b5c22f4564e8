"""Channels of torch models."""
