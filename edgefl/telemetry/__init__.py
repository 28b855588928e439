"""What the device and the daemon are doing, in numbers.

capacity.py  the class of the device, from its cores, its memory and whether it runs on mains
lag.py       how late the event loop is, as a histogram
memory.py    how much memory the process may take
load.py      processor, memory, temperature and battery of the device, smoothed; every sensor is optional
carriage.py  what carrying a byte costs the processor
price.py     what that costs those who send through this device: its advert in the routing game
"""
