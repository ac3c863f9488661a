"""What S2LPO needs as a trial of Ray Tune."""
