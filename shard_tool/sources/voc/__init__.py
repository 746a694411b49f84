"""Reads PASCAL VOC: devkits, XML annotations, image sets; downloads the official archives."""
