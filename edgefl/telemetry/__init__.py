"""What the device and the daemon are doing, in numbers.

load.py  processor, memory, temperature and battery of the device, smoothed; every sensor is optional
"""
