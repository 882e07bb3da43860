"""Problems on which natural gradient is exact, compared with the empirical Fisher.

After F. Kunstner, L. Balles and P. Hennig, *Limitations of the Empirical Fisher Approximation
for Natural Gradient Descent*, NeurIPS 2019.
"""
