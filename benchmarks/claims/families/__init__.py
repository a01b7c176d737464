"""The measurements, one function for each claim; table.py names them."""
