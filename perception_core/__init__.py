"""What the offline and the on-vehicle side share: models, deployments, rigs, bundles. Knows no ROS and no
data set.
"""
