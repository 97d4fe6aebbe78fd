"""The benchmark: codecs, metrics, picture sets, curves and their report (``llicm bench``)."""
