"""The matrix of faults: each breaks a whole pipeline for real, lets the next runs recover, and checks a promise."""
