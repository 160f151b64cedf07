"""SAME: the digital headers of emergency alerts (47 CFR 11.31), decoded from audio."""
