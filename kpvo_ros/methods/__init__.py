"""The ways to train: each room brings its data, loss and task; none knows another."""
