"""The benchmark: deltabus and its peers, one after the other in one run, on one provider and one Redis."""
