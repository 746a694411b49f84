"""PASCAL VOC: devkits and their archives, XML annotations, image sets, official downloads."""
