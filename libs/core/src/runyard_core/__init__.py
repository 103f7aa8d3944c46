"""The pure core of Runyard: deciders, projections, errors, clocks. Imports nothing outside the standard library."""
