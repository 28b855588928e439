"""The demonstration: a throw-away fleet of real daemons on this machine trains the digits.

local_fleet.py  daemons as processes on loopback, with a fleet key and a state directory each
digits.py       who gets which digits, and the yardsticks: all data in one place, every device alone
run.py          the whole demonstration: fleet, applications, progress, result
picture.py      the trees as text
"""
