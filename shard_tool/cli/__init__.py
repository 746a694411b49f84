"""Holds the command line `shard-tool`; each verb only parses options, calls the library, prints."""
