"""The code that good articles recommend: what a careful team has today."""
