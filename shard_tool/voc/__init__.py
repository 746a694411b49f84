"""What PASCAL VOC is: its archives, its folders, its lists and its annotations."""
