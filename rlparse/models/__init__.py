"""Tree encoders and the classifiers on top of them."""
