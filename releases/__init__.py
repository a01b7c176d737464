"""Prepares a version of the template: what changed for services since the last one, and which number that asks for."""
