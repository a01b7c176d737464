"""Puts the rendered service beside the four in this directory: starts, drives, measures and compares them."""
