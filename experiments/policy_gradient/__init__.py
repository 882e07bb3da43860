"""Plain and natural policy gradient on the cart-pole, compared by environment steps."""
