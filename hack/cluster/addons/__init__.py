"""Addons: what a cluster runs besides dtq. Each module names its images and its objects.

`install.py` installs them; the provider `native` installs its own DNS.
"""
