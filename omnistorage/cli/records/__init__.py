"""What the verbs that move records share."""
