"""What the SQL backends share: the database, its dialects and connections."""
