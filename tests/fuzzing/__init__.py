"""Random small pairs whose evidence is known, and the judge of what the library says of them."""
