"""From frames to the pose of the robot. `pipeline.py` tells the whole algorithm."""
