"""Many applications on one fleet, beside a central server: `edgefl sim apps` (simulated, and labelled so).

links.py       an uplink that takes turns chunk by chunk, and a downlink
processor.py   one processor a device: steps of training in the turns of the shipped scheduler (learning/turns.py)
device.py      a device: the shipped learning layer with these links and this processor
central.py     the same devices below one server that is no device: a star instead of trees
run.py         the runs and their report
together.py    several models that share one fleet's training (`edgefl sim together`), with real gradients
"""
