"""The paper (PDF) and the report (HTML), made from the tables."""
