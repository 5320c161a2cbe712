"""The project's own clusters: started, loaded with images and removed by `python -m hack.cluster`.

Nothing here imports the product, and the product imports nothing from here.
"""
