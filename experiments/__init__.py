"""Published comparisons, one command each: `python -m experiments.NAME`.

`harness` has what they share: a run is `python train.py OVERRIDES` in a folder of its own, made once;
methods are tuned on seeds that are not reported; tables, figures and pages. What is compared is in a
file, or a package, per experiment. The texts of the pages are in `templates`.
"""
