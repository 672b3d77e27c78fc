"""Tests of the build itself and of installing into fresh environments."""
