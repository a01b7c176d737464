"""Tests of the read replica, on two real servers."""
