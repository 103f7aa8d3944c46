"""The contracts of Runyard: generated messages, ids, subjects and the event registry."""
