"""Versions of what produces results: whoever changes the results raises the version.

A record made with an earlier version is stale.
"""

DATA = 1
MODEL = 1
TRAINING = 1
SCORING = 1
ESTIMATION = 3
SPEED = 2
