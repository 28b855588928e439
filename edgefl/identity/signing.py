"""Signatures of application owners: the manifest says what is trained, the owner's signature that it is meant."""

from __future__ import annotations

from edgefl.errors import UsageError, WireError
from edgefl.identity.certificate import Signer
from edgefl.identity.keys import signed_by
from edgefl.wire.application import Advert, AppState, Manifest, advert_signed_bytes
from edgefl.wire.codec import encode_record
from edgefl.wire.contact import Contact


def sign_advert(owner_key: Signer, manifest: Manifest, version: int, state: AppState, holder: Contact) -> Advert:
    """The owner's word that the application of `manifest` shall be in `state`; a higher version replaces a lower one.

    `holder` is where the artifacts can be fetched: a hint that the signature does not cover. Raises UsageError when the
    manifest names another owner.
    """
    if manifest.owner != owner_key.public:
        raise UsageError("the manifest names another owner", hint="sign it with the key that created the application")
    packed = encode_record(manifest)
    signature = owner_key.sign(advert_signed_bytes(packed, version, state))
    return Advert(packed, version, state, signature, holder)


def verify_advert(advert: Advert) -> bool:
    """Whether the advert carries a valid manifest signed by the owner that the manifest names."""
    try:
        manifest = advert.decode_manifest()
    except WireError:
        return False
    return signed_by(manifest.owner, advert.signed_bytes(), advert.signature)
