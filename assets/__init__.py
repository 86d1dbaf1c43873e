"""The pipeline: the asset engine, the definitions of the assets, their analysis, and the steps that run them."""
