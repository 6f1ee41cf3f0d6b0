"""What a sync would do: two ordered listings in, actions out."""
