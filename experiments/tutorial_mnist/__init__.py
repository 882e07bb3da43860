"""The tutorial's network on 8,000 images: first-order methods and natural gradients.

After B. Gebotys, *Natural Gradient Descent without the Tears*, 2021.
"""
