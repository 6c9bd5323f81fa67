"""Optical flow: how the pixels of a frame move to the next one."""
