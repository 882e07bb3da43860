"""Published comparisons, one command each: `python -m experiments.NAME`.

`harness` has what they share. A run is `python train.py OVERRIDES` in a folder of its own, made
once. Methods are tuned on seeds that are not reported. What is compared is in a file, or a package,
per experiment. The texts of the pages are in `templates`.
"""
