"""Plain and natural policy gradient on the cart-pole, by environment steps."""
