"""The release that writes bytes: one constant, in the manifest and in the package's version."""

RELEASE = "0.1.0"
