"""What a user's terminal or notebook does with a cluster, with the rights of its user."""
