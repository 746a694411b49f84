"""Makes pixels: decoding, scaling, changing colours, and the arithmetic of boxes and views."""
