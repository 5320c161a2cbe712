"""What is put into a cluster besides dtq, each a module that says its images and its objects.

Must never install anything by itself: `install.py` does, and the provider `native` for its DNS.
"""
