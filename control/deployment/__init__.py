"""What a deployment on servers of its own is given before it starts: authority, secrets, keys, folders."""
