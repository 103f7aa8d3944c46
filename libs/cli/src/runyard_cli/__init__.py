"""The command line of Runyard. Nothing can be done from it that a company's own client cannot do."""
