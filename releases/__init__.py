"""Prepare a version of the template: its changes for services, and the version number that these require."""
