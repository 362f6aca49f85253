"""What came of a study, as a document."""
