"""Where natural gradient is exact, and what the empirical Fisher makes of the same problems.

After F. Kunstner, L. Balles and P. Hennig, *Limitations of the Empirical Fisher Approximation
for Natural Gradient Descent*, NeurIPS 2019.
"""
