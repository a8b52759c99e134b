"""How Foresail looks at a Kubernetes cluster and acts on it: everything that knows of its API is in here."""
