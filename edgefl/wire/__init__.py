"""Every message that edgefl sends, declared once: a dataclass here is a CBOR map with integer keys on the wire.

    codec.py        dataclass <-> bytes, strictly; the registry of message types
    fields.py       codecs of single values, each with its bound
    contact.py      where a device is, in 21 bytes
    blob.py         content-addressed blobs and their chunks
    overlay.py      joining, rings, routed requests, tracker, trees, directory      (types 10-59)
    game.py         prices of parents, moves, what a site carries                   (types 36-37, 45-48)
    tree_walk.py    who is next to whom in a tree                                   (types 49, 54)
    learning.py     rounds                                                          (types 60-69)
    link.py         greeting, chunks, revocations                                   (types 70-79)
    sampled.py      samples, their models, views of who takes part                  (types 81-88)
    consensus.py    models between neighbours, agreement on a start                (types 91-92)
    program.py      broadcasts and sums of a program's own tree                    (types 95-99)
    application.py  manifests and adverts

This room knows no sockets and no state.
"""

from edgefl.wire import consensus, game, learning, link, overlay, program, sampled, tree_walk
from edgefl.wire.codec import (
    MAX_MESSAGE_BYTES,
    Message,
    decode,
    decode_record,
    encode,
    encode_record,
    message_types,
)
from edgefl.wire.contact import Capacity, Contact, Role, node_name, parse_node_name

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Capacity",
    "Contact",
    "Message",
    "Role",
    "consensus",
    "decode",
    "decode_record",
    "encode",
    "encode_record",
    "game",
    "learning",
    "link",
    "message_types",
    "node_name",
    "overlay",
    "parse_node_name",
    "program",
    "sampled",
    "tree_walk",
]
