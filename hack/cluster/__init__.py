"""The project's own clusters: started, loaded with images and removed by `python -m hack.cluster`.

Owns everything between "no cluster" and a kubeconfig that works. Must never touch what dtq itself
is: nothing here is imported by the product, and nothing here imports it.
"""
