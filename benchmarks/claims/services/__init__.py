"""Small applications as the authors of the claims mean them."""
