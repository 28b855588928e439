"""Who may take part: the policy behind the door and behind every ZeroMQ port.

One `Admission` per device. It knows the device's own standing (fleet and certificate, if any yet) and judges others:

    knock with a certificate   chain, fleet, revocations, uses of the token    -> admitted, or refused with a reason
    knock without one          approved meanwhile?                             -> admitted, and given the certificate
                               otherwise                                       -> pending, shown to the fleet's owner

Admitted devices stand on the allow list (CURVE key -> node id), which is all that the ZeroMQ ports look at. Every table
is bounded; losing an entry of the allow list costs its device one more knock, nothing else. No clock is involved.

`export` and `restore` move everything that should survive a restart; `on_change` says when it changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from edgefl.declared import dataclass
from edgefl.errors import ConfigError, WireError
from edgefl.identity.certificate import DeviceCertificate, DeviceClaim, verify
from edgefl.identity.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, DeviceKeys, curve_bound, node_id_of
from edgefl.identity.reason import Reason, RefusedError
from edgefl.identity.revocation import RevocationList, pack_revocations, unpack_revocations
from edgefl.identity.token import Token, fingerprint
from edgefl.wire.codec import Record, decode_record, encode_record, nested, record
from edgefl.wire.fields import U64, many, optional, raw, text
from edgefl.wire.link import MAX_REVOCATIONS_BYTES

MAX_ALLOWED = 4096
"""Devices on the allow list, about 150 bytes each: far more than one device ever talks to. The least recently admitted
goes first; it knocks again when it has something to say."""

MAX_PENDING = 64
"""Devices waiting for approval that a person still reads through. The oldest goes first; it asks again anyway."""

MAX_PENDING_PER_HOST = 32
"""So that one machine with many keys cannot push all others off the list; a site behind one address still fits."""

MAX_APPROVALS = 256
"""Certificates waiting to be fetched by their devices: about 300 bytes each."""

MAX_COUNTED_SERIALS = 128
"""Tokens with a limited number of uses that this door counts. Only the fleet's owner can make more."""

MAX_COUNTED_DEVICES = 1024
"""Devices per counted token: no token may promise more (fleet.py, MAX_USES)."""

MAX_STATE_BYTES = 2 * 1024 * 1024
"""The exported state with every table full is about 1 MB."""


@record
class Pending(Record):
    """A device that has knocked without a certificate. `host` is the address that it was seen from."""

    device: Annotated[bytes, 1, raw(PUBLIC_KEY_BYTES, exactly=True)]
    curve: Annotated[bytes, 2, raw(PUBLIC_KEY_BYTES, exactly=True)]
    binding: Annotated[bytes, 3, raw(SIGNATURE_BYTES, exactly=True)]
    site: Annotated[str, 4, text(64)] = ""
    host: Annotated[str, 5, text(64)] = ""

    @property
    def node_id(self) -> int:
        return node_id_of(self.device)

    def claim(self) -> DeviceClaim:
        """What the fleet's owner signs to approve it (FleetKey.approve)."""
        return DeviceClaim(self.device, self.curve, self.binding, self.site)


@record
class Allowed(Record):
    """One entry of the allow list. `serial` is the token's, empty for an approved device."""

    curve: Annotated[bytes, 1, raw(PUBLIC_KEY_BYTES, exactly=True)]
    node_id: Annotated[int, 2, U64]
    serial: Annotated[bytes, 3, raw(16)] = b""


@record
class Counted(Record):
    """The devices that have come through this door with one token."""

    serial: Annotated[bytes, 1, raw(16, exactly=True)]
    nodes: Annotated[tuple[int, ...], 2, many(U64, MAX_COUNTED_DEVICES)] = ()


@record
class AdmissionState(Record):
    """Everything of an Admission that should survive a restart, as one record. Nothing in it is secret."""

    fleet: Annotated[bytes | None, 1, optional(raw(PUBLIC_KEY_BYTES, exactly=True))] = None
    certificate: Annotated[DeviceCertificate | None, 2, optional(nested(DeviceCertificate))] = None
    revocations: Annotated[bytes, 3, raw(MAX_REVOCATIONS_BYTES)] = b""
    allowed: Annotated[tuple[Allowed, ...], 4, many(nested(Allowed), MAX_ALLOWED)] = ()
    pending: Annotated[tuple[Pending, ...], 5, many(nested(Pending), MAX_PENDING)] = ()
    approvals: Annotated[tuple[DeviceCertificate, ...], 6, many(nested(DeviceCertificate), MAX_APPROVALS)] = ()
    counted: Annotated[tuple[Counted, ...], 7, many(nested(Counted), MAX_COUNTED_SERIALS)] = ()

    def encode(self) -> bytes:
        return encode_record(self)

    @classmethod
    def decode(cls, data: bytes) -> AdmissionState:
        """Raises WireError."""
        return decode_record(cls, data, limit=MAX_STATE_BYTES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a knock; `approval` is the certificate for a device that the fleet's owner has approved."""

    reason: Reason
    approval: DeviceCertificate | None = None


class Admission:
    """A device's standing, and its judgement of others.

    fleet        public key of the fleet that this device belongs to, or None
    certificate  this device's own, or None
    on_change    called after anything that `export` contains has changed
    on_revoked   called with the node ids that lost their place when newer revocations arrived
    """

    def __init__(self, keys: DeviceKeys, *, site: str = "", on_change: Callable[[], None] | None = None) -> None:
        self.keys = keys
        self.site = site
        self.fleet: bytes | None = None
        self.certificate: DeviceCertificate | None = None
        self.revocations: RevocationList | None = None
        self.on_change = on_change
        self.on_revoked: Callable[[frozenset[int]], None] | None = None
        self._revoked_nodes: frozenset[int] = frozenset()
        self._revoked_serials: frozenset[bytes] = frozenset()
        self._allowed: dict[bytes, Allowed] = {}
        self._curve_of: dict[int, bytes] = {}
        self._pending: dict[int, Pending] = {}
        self._approvals: dict[int, DeviceCertificate] = {}
        self._counted: dict[bytes, dict[int, None]] = {}

    # This device's own standing

    def join(self, token: Token) -> None:
        """Become a member by a token. Raises ConfigError if this device belongs to another fleet already."""
        self.adopt(token.certify(self.keys))

    def adopt(self, certificate: DeviceCertificate) -> None:
        """Take this certificate as our own and pin its fleet. Raises RefusedError, ConfigError."""
        if self.fleet is not None and certificate.fleet != self.fleet:
            raise ConfigError(
                f"this device already belongs to fleet {fingerprint(self.fleet)}",
                hint="use another --state directory, or edgefl leave first",
            )
        verify(certificate)
        if certificate.device != self.keys.public or certificate.curve != self.keys.curve_public:
            raise RefusedError(Reason.BAD_SIGNATURE, "the certificate is another device's")
        self.fleet = certificate.fleet
        self.certificate = certificate
        self._changed()

    def claim(self) -> DeviceClaim:
        """What this device says of itself when it knocks."""
        return DeviceClaim(self.keys.public, self.keys.curve_public, self.keys.binding, self.site)

    # Judging others

    def check(self, certificate: DeviceCertificate) -> None:
        """Raise RefusedError unless the certificate is genuine, of our fleet (if we have one) and not revoked."""
        verify(certificate, fleet=self.fleet)
        if self._revoked(certificate):
            raise RefusedError(Reason.REVOKED)

    def decide(self, claim: DeviceClaim, certificate: DeviceCertificate | None, *, host: str = "") -> Verdict:
        """Judge a device that has proved at our door that it owns the keys in `claim`.

        Whoever is admitted stands on the allow list afterwards; whoever has no certificate is pending.
        """
        if self.fleet is None or self.certificate is None:
            return Verdict(Reason.NO_FLEET)
        if certificate is None:
            return self._decide_stranger(claim, host)
        if certificate.device != claim.device or certificate.curve != claim.curve:
            return Verdict(Reason.BAD_SIGNATURE)
        try:
            self.check(certificate)
        except RefusedError as refusal:
            return Verdict(refusal.reason)
        if not self._count(certificate):
            return Verdict(Reason.TOKEN_USED_UP)
        self.admit(certificate)
        return Verdict(Reason.ADMITTED)

    def admit(self, certificate: DeviceCertificate) -> None:
        """Put a checked certificate's key on the allow list."""
        entry = Allowed(
            certificate.curve, certificate.node_id, certificate.enrolment.serial if certificate.enrolment else b""
        )
        before = self._curve_of.get(entry.node_id)
        news = before != entry.curve
        if news and before is not None:
            del self._allowed[before]
        self._allowed.pop(entry.curve, None)
        self._allowed[entry.curve] = entry
        self._curve_of[entry.node_id] = entry.curve
        while len(self._allowed) > MAX_ALLOWED:
            self._disallow(next(iter(self._allowed)))
        if news:
            self._changed()

    def allowed(self, curve_key: bytes) -> int | None:
        """The node id of the device with this CURVE key, if it is admitted."""
        entry = self._allowed.get(curve_key)
        return None if entry is None else entry.node_id

    def admits(self, node_id: int) -> bool:
        """Whether this device stands on the allow list."""
        return node_id in self._curve_of

    # What the fleet's owner does

    @property
    def pending(self) -> tuple[Pending, ...]:
        """Devices that wait for approval, the longest waiting first."""
        return tuple(self._pending.values())

    def approve(self, certificate: DeviceCertificate) -> None:
        """Keep an approved device's certificate until it knocks again. Raises RefusedError, ConfigError."""
        if self.fleet is None:
            raise ConfigError("this device is not in a fleet", hint="edgefl join --first, or with a token")
        self.check(certificate)
        self._approvals[certificate.node_id] = certificate
        self._pending.pop(certificate.node_id, None)
        while len(self._approvals) > MAX_APPROVALS:
            del self._approvals[next(iter(self._approvals))]
        self._changed()

    def merge_revocations(self, data: bytes) -> bool:
        """Take over a signed list if it is newer than ours; True if it was.

        Raises WireError and RefusedError for anything that is not a list of our fleet.
        """
        if self.fleet is None:
            raise RefusedError(Reason.NO_FLEET)
        known = 0 if self.revocations is None else self.revocations.version
        news = unpack_revocations(data, fleet=self.fleet, after=known)
        if news is None:
            return False
        self._set_revocations(news)
        lost = frozenset(
            entry.node_id
            for entry in self._allowed.values()
            if entry.node_id in self._revoked_nodes or entry.serial in self._revoked_serials
        )
        for node_id in lost:
            self._disallow(self._curve_of[node_id])
        self._pending = {node: item for node, item in self._pending.items() if node not in self._revoked_nodes}
        self._approvals = {node: item for node, item in self._approvals.items() if not self._revoked(item)}
        self._changed()
        if self.on_revoked is not None:
            self.on_revoked(lost)
        return True

    @property
    def revoked_self(self) -> bool:
        """Whether our own certificate is on the list."""
        return self.certificate is not None and self._revoked(self.certificate)

    # Persistence

    def export(self) -> AdmissionState:
        """A snapshot of everything that should survive a restart."""
        return AdmissionState(
            fleet=self.fleet,
            certificate=self.certificate,
            revocations=b"" if self.revocations is None else pack_revocations(self.revocations),
            allowed=tuple(self._allowed.values()),
            pending=tuple(self._pending.values()),
            approvals=tuple(self._approvals.values()),
            counted=tuple(Counted(serial, tuple(nodes)) for serial, nodes in self._counted.items()),
        )

    def restore(self, state: AdmissionState) -> None:
        """Continue from a snapshot of this same device. Raises ConfigError if it is another's or damaged."""
        certificate = state.certificate
        try:
            if certificate is not None:
                verify(certificate, fleet=state.fleet)
                if certificate.device != self.keys.public or certificate.curve != self.keys.curve_public:
                    raise RefusedError(Reason.BAD_SIGNATURE, "the certificate is another device's")
            if state.revocations and state.fleet is not None:
                revocations = unpack_revocations(state.revocations, fleet=state.fleet)
                if revocations is not None:
                    self._set_revocations(revocations)
        except (RefusedError, WireError) as error:
            raise ConfigError(
                f"the stored membership does not fit this device: {error.cause}",
                hint="was device.key replaced? restore it, or join again with a fresh --state directory",
            ) from None
        self.fleet = state.fleet
        self.certificate = certificate
        self._allowed = {entry.curve: entry for entry in state.allowed}
        self._curve_of = {entry.node_id: entry.curve for entry in state.allowed}
        self._pending = {item.node_id: item for item in state.pending}
        self._approvals = {item.node_id: item for item in state.approvals}
        self._counted = {item.serial: dict.fromkeys(item.nodes) for item in state.counted}

    # Details

    def _decide_stranger(self, claim: DeviceClaim, host: str) -> Verdict:
        if not curve_bound(claim.device, claim.curve, claim.binding):
            return Verdict(Reason.BAD_SIGNATURE)
        if claim.node_id in self._revoked_nodes:
            return Verdict(Reason.REVOKED)
        approval = self._approvals.get(claim.node_id)
        if approval is not None and approval.curve == claim.curve:
            # The certificate is kept: an answer that was lost on its way is asked for again.
            self.admit(approval)
            return Verdict(Reason.ADMITTED, approval)
        known = self._pending.get(claim.node_id)
        # A stranger's text, shown on a terminal: nothing in it may control that terminal.
        site = "".join(letter for letter in claim.site if letter.isprintable())
        request = Pending(claim.device, claim.curve, claim.binding, site, host)
        if request != known:
            self._add_pending(request)
        return Verdict(Reason.PENDING)

    def _add_pending(self, request: Pending) -> None:
        self._pending.pop(request.node_id, None)
        same_host = [item for item in self._pending.values() if item.host == request.host]
        if len(same_host) >= MAX_PENDING_PER_HOST:
            del self._pending[same_host[0].node_id]
        elif len(self._pending) >= MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        self._pending[request.node_id] = request
        self._changed()

    def _count(self, certificate: DeviceCertificate) -> bool:
        enrolment = certificate.enrolment
        if enrolment is None or enrolment.uses == 0:
            return True
        nodes = self._counted.get(enrolment.serial, {})
        if certificate.node_id in nodes:
            return True
        if len(nodes) >= min(enrolment.uses, MAX_COUNTED_DEVICES):
            return False
        if enrolment.serial not in self._counted:
            while len(self._counted) >= MAX_COUNTED_SERIALS:
                del self._counted[next(iter(self._counted))]
            self._counted[enrolment.serial] = nodes
        nodes[certificate.node_id] = None
        self._changed()
        return True

    def _revoked(self, certificate: DeviceCertificate) -> bool:
        enrolment = certificate.enrolment
        return certificate.node_id in self._revoked_nodes or (
            enrolment is not None and enrolment.serial in self._revoked_serials
        )

    def _set_revocations(self, revocations: RevocationList) -> None:
        self.revocations = revocations
        self._revoked_nodes = frozenset(revocations.nodes)
        self._revoked_serials = frozenset(revocations.serials)

    def _disallow(self, curve: bytes) -> None:
        entry = self._allowed.pop(curve)
        if self._curve_of.get(entry.node_id) == curve:
            del self._curve_of[entry.node_id]

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()
