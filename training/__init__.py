"""The offline side: synthetic worlds, data sets, training, evaluation and search. Never imports ROS."""
