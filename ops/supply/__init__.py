"""The supply chain of a release: what is pinned (`lockfile`), what is in it (`sbom`), what is known of it (`audit`)."""
