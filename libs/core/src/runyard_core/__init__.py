"""The pure core of Runyard: deciders, projections, errors, clocks. Standard library only."""
